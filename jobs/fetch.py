"""`fer fetch`: download a model file that Ferry does not contain."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fer.options import Options


class Config(Options):
    """Download a model file into the cache folder (FER_CACHE, else ~/.cache/ferry), once and checked by its SHA-256."""

    name: CliPositionalArg[str] = Field(description="The file: yunet, the face detector of the OpenCV Zoo (230 kB)")


def main(config: Config) -> None:
    """Download the file unless it is there, and print its path."""
    from fer.downloads import download

    print(download(config.name))


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("fetch"))
