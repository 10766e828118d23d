"""Options of the data layer, shared by `fer prepare`, `fer train` and `fer evaluate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

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
        "folder": "fer.data.sources.folder:FolderSource",
    },
)


def _known_format(name: str) -> str:
    return name if name in ("auto", "shards", "vqa") else SOURCES.check(name)


Format = Annotated[str, AfterValidator(_known_format)]


class SourceOptions(Options):
    """Which data set of faces, and in which label space."""

    data: str = Field(
        description="Data set: shards made by `fer prepare`, a folder or .zip of images, a CSV file, a mix (.yaml), "
        "or a URI of any of them (s3://, gs://)"
    )
    format: Format = Field(
        "auto",
        description=f"Format of the data set: auto (looks at its files), shards, vqa, {', '.join(SOURCES.builtin)}, "
        "that of an installed package, or module:Class of your own",
    )
    label_space: str | None = Field(
        None,
        description="Map labels into this space (fer2013, ferplus, rafdb, affectnet, sfew, six-class, basic); "
        "rows without a counterpart are left out and counted",
    )


class SplitOptions(Options):
    """How rows are split, and how many bad ones are borne."""

    val_split: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training rows used for validation, where the data set has no validation part",
    )
    test_split: float = Field(
        0.0, ge=0, lt=1, description="Share of the rows used for testing, where the data set has no test part"
    )
    split_seed: int = Field(0, ge=0, description="Seed of the split: the same seed gives the same split")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Stop if more than this share of the rows is unusable"
    )


class DataOptions(SplitOptions, SourceOptions):
    """Which faces, and how they are split."""


class QuestionOptions(SplitOptions):
    """Which questions about faces, and how they are split."""

    data: str = Field(
        description="Questions: shards made by `fer prepare --format vqa`, or a .json or .jsonl file as UniFER "
        "publishes them (`fer questions` makes them from any data set of faces)"
    )
    image_root: str | None = Field(
        None, description="Folder or .zip that the rows' image paths are relative to; unset: where the file lies"
    )
    embed_images: bool = Field(
        True, description="Copy the images into the shards; else the shards name them, and every worker must reach them"
    )


class PrepareOptions(QuestionOptions, DataOptions):
    """Turn a data set into checked, shuffled Parquet shards that training streams from any storage."""

    data: str = Field(description="Data set of faces, or a .json or .jsonl file of questions (--format vqa)")
    out: str = Field(description="Where the shards go: a new folder, or a URI (s3://, gs://)")
    shard_mb: int = Field(
        96, ge=1, le=4096, description="Size of one shard file, in MB of images; 64 to 128 suits most storage"
    )
    overwrite: bool = Field(
        False, description="Replace the shards that --out holds, if they are of other data or options"
    )
