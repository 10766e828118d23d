"""`fer promote`: point an alias to a version of a registered model. Servers that follow the alias reload it."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic_settings import CliPositionalArg

from fer.tracking import TrackingOptions


class Config(TrackingOptions):
    """Point an alias, such as champion, to a version of a registered model."""

    model_config = ConfigDict(populate_by_name=True)

    name: CliPositionalArg[str] = Field(description="Name of the registered model")
    version: int | None = Field(None, ge=1, description="Version to promote; unset: the one with the alias of --from")
    alias: str = Field("champion", description="Alias to set")
    source: str = Field("challenger", alias="from", description="Alias of the version to promote")


def main(config: Config) -> None:
    """Move the alias, and print its old and its new version."""
    from fer.registry import promote
    from fer.tracking import tracking_uri

    version = None if config.version is None else str(config.version)
    old, new = promote(config.name, version, config.alias, config, config.source)
    before = f"before: {old}" if old else "a new alias"
    print(f"models:/{config.name}@{config.alias} is now version {new} ({before}), in {tracking_uri(config)}")


if __name__ == "__main__":
    import sys

    from jobs.__main__ import run_job

    sys.exit(run_job("promote"))
