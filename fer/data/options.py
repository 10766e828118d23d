"""Options of data sets, shared by `fer prepare`, `fer train` and `fer evaluate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from fer.faces.options import DetectorName, FaceOptions
from fer.options import Options
from fer.plugins import Registry

# In the order in which `--format auto` tries them: the ones with files of their own first, any folder of images last.
SOURCES = Registry(
    "--format",
    "fer.sources",
    {
        "mix": "fer.data.sources.mix:MixSource",
        "ferplus": "fer.data.sources.ferplus:FerPlusSource",
        "rafdb": "fer.data.sources.rafdb:RafDbSource",
        "rafdb-compound": "fer.data.sources.rafdb:RafDbCompoundSource",
        "fer2013": "fer.data.sources.fer2013:Fer2013Source",
        "affectnet": "fer.data.sources.affectnet:AffectNetSource",
        "sfew": "fer.data.sources.sfew:SfewSource",
        "unlabelled": "fer.data.sources.unlabelled:UnlabelledSource",
        "folder": "fer.data.sources.folder:FolderSource",
    },
)

CPUS_PER_READER = 0.25
"""CPUs that a read task reserves; reading is mostly waiting. Jobs leave this much free per training worker."""


def _known_format(name: str) -> str:
    return name if name in ("auto", "shards", "vqa") else SOURCES.check(name)


Format = Annotated[str, AfterValidator(_known_format)]


class SourceOptions(Options):
    """A data set of faces, and its label space."""

    data: str = Field(
        description="Data set: shards written by `fer prepare`, a folder or .zip of images, a CSV file, a mix (.yaml), "
        "or the URI of one (s3://, gs://)"
    )
    format: Format = Field(
        "auto",
        description=f"Format of the data set: auto (detect it), shards, vqa, {', '.join(SOURCES.builtin)}, "
        "that of an installed package, or module:Class of your own",
    )
    label_space: str | None = Field(
        None,
        description="Map labels into this space (fer2013, ferplus, rafdb, affectnet, sfew, six-class, basic); "
        "rows whose label has no counterpart are excluded and counted",
    )


class SplitOptions(Options):
    """How rows are split, and how many may be bad."""

    val_split: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Fraction of the training rows used for validation, if the data set has no validation split",
    )
    test_split: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the rows used for testing, if the data set has no test split"
    )
    split_seed: int = Field(0, ge=0, description="Random seed of the split")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="Stop if more than this fraction of the rows is bad")


class DataOptions(SplitOptions, SourceOptions):
    """A data set of faces, and its splits."""


class QuestionOptions(SplitOptions):
    """A data set of questions about faces, and its splits."""

    data: str = Field(
        description="Questions: shards written by `fer prepare --format vqa`, or a .json or .jsonl file in UniFER's "
        "format (`fer questions` writes one from any data set of faces)"
    )
    image_root: str | None = Field(
        None, description="Folder or .zip that image paths are relative to; unset: the folder of the file"
    )
    embed_images: bool = Field(
        True, description="Store the images in the shards, instead of paths that every worker must be able to read"
    )


class PrepareOptions(QuestionOptions, DataOptions, FaceOptions):
    """Convert a data set to validated, shuffled Parquet shards, which training streams from any storage."""

    data: str = Field(description="Data set of faces, or a .json or .jsonl file of questions (--format vqa)")
    out: str = Field(description="Output folder of the shards, or a URI (s3://, gs://)")
    shard_mb: int = Field(
        96, ge=1, le=4096, description="About the size of one shard in MB; 64 to 128 suits most storage"
    )
    overwrite: bool = Field(False, description="Replace the shards in --out, of whatever data and options")
    detector: DetectorName = Field(
        "none",
        description="Find the largest face of each photograph and cut it out: yunet, haar, or auto (yunet if its model "
        "file is there); none: the images show one face each. Models that are trained on the shards do the same",
    )
    workers: int = Field(
        0, ge=0, description="Ray workers that read, check and write; 0: one per CPU, and none for small data"
    )

    @model_validator(mode="after")
    def _aligns_what_it_detects(self) -> PrepareOptions:
        if self.align and self.detector in ("none", "haar"):
            raise ValueError("--align needs --detector yunet: it rotates faces by their eyes, which only YuNet finds")
        if self.format == "vqa" and self.detector != "none":
            raise ValueError("--detector is for faces: leave it out with --format vqa")
        return self
