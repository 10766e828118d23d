"""`fer promote`: give a registered model an alias. Servers that follow the alias change over by themselves."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic_settings import CliPositionalArg

from fer.tracking import TrackingOptions


class Config(TrackingOptions):
    """Give a version of a registered model an alias, such as champion."""

    model_config = ConfigDict(populate_by_name=True)

    name: CliPositionalArg[str] = Field(description="Name of the registered model")
    version: int | None = Field(None, ge=1, description="Version to promote; unset: the one that --from points to")
    alias: str = Field("champion", description="Alias to give")
    source: str = Field("challenger", alias="from", description="Alias of the version that is promoted")


def main(config: Config) -> None:
    """Move the alias and say from where to where."""
    from fer.tracking import promote, tracking_uri

    version = None if config.version is None else str(config.version)
    old, new = promote(config.name, version, config.alias, config, config.source)
    before = f"it was version {old}" if old else "it is new"
    print(f"models:/{config.name}@{config.alias} is now version {new} ({before}), in {tracking_uri(config)}")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("promote"))
