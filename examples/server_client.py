"""Send an image to the server, and print the response.

    fer serve
    python examples/server_client.py IMAGE [--url http://127.0.0.1:8000] [--token TOKEN]

Without IMAGE, the script starts a server for itself, sends it a portrait, and stops it at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

OUT = Path("runs/example-client")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token")
    options = parser.parse_args()
    if options.image:
        print_faces(options.image, options.url, options.token)
    else:
        with own_server() as (url, image):
            print_faces(image, url)


def print_faces(image: Path, url: str, token: str | None = None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with image.open("rb") as file:
        response = httpx.post(f"{url}/v1/predict", files={"files": file}, headers=headers, timeout=60)
    if response.is_error:
        raise SystemExit(f"{response.status_code}: {response.json()['detail']}")
    prediction = response.json()
    print(f"model {prediction['model']['name']}, version {prediction['model']['version']}")
    for face in prediction["images"][0]["faces"]:
        box = face["box"]
        print(
            f"{face['label']} ({face['confidence']:.0%}) at x {box['x']}, y {box['y']}, {box['w']} x {box['h']} pixels"
        )


@contextmanager
def own_server() -> Iterator[tuple[str, Path]]:
    """The URL of a server with the model that comes with Ferry, and a portrait."""
    from PIL import Image
    from skimage import data

    from cluster.ports import free_port
    from jobs import serve

    OUT.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(OUT / "portrait.png")
    with serve.running(serve.Config(apps=["classifier"], port=free_port())) as url:
        yield url, OUT / "portrait.png"


if __name__ == "__main__":
    main()
