"""Train with a data set in a format of your own.

    python examples/custom_source.py [FOLDER]

`ListSource` reads a folder with a file `labels.txt`, one image and its label on each line. Without FOLDER, the script
writes such a folder of rendered faces. On the command line, with this file in the current folder, the same is:

    fer train --data FOLDER --format custom_source:ListSource --backbone resnet18

CONTRIBUTING.md shows how an installed package gives the format a name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fer.data.filesystem import FileTree
from fer.data.schema import FaceRow
from fer.errors import UserError
from fer.labels import infer_space

LIST = "labels.txt"
OUT = Path("runs/example-source")


class ListSource:
    """Images named by ``labels.txt``: ``images/0001.png happiness``."""

    format = "list"

    def __init__(self, tree: FileTree) -> None:
        if not self.matches(tree):
            raise UserError(f"{tree.location} has no {LIST}")
        self.tree = tree
        with tree.open_text(LIST) as file:
            self.lines = [line.split() for line in file if line.strip()]
        self.space = infer_space({label for _, label in self.lines})

    @classmethod
    def matches(cls, tree: FileTree) -> bool:
        return LIST in tree.files

    def rows(self) -> Iterator[FaceRow]:
        """Rows whose image is missing are rejected by `fer prepare`, with the reason."""
        for path, label in self.lines:
            yield FaceRow(self.tree.display_path(path), label, partial(self.tree.read, path))

    def fingerprint(self) -> str:
        return self.tree.fingerprint()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    folder = parser.parse_args().folder or write_list()

    from jobs import train

    train.main(
        train.Config(
            data=str(folder), format="custom_source:ListSource", storage=str(OUT), name="small", backbone="resnet18",
            model_kwargs={"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}, img_size=48, epochs=2, batch_size=16,
        )
    )  # fmt: skip


def write_list() -> Path:
    """A folder in the format of `ListSource`, made of rendered faces."""
    from fer.data.synthetic import write_faces

    write_faces(OUT / "list" / "images", per_class=40)
    images = sorted((OUT / "list" / "images").rglob("*.png"))
    lines = (f"{image.relative_to(OUT / 'list')} {image.parent.name}\n" for image in images)
    (OUT / "list" / LIST).write_text("".join(lines))
    return OUT / "list"


if __name__ == "__main__":
    main()
