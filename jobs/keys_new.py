"""`fer keys new`: make an API key for `fer serve --api-keys FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

from fer.options import Options
from serve_apps.access.api_keys import SCOPES, Scope, add_key


class Config(Options):
    """Make an API key, print it once, and add its digest, its scopes and its rate to a file."""

    name: str = Field(pattern=r"^[\w.@-]+$", description="Who gets the key")
    scopes: list[Scope] = Field(
        ["predict", "live", "metadata"],
        min_length=1,
        description=f"What the key is for, separated by commas: {', '.join(SCOPES)} (models and their files)",
    )
    rate: int | None = Field(None, ge=1, description="Requests a minute to each application; unset: no limit")
    file: str = Field("keys.yaml", description="File of API keys, YAML or JSON; it is made if it is missing")


def main(config: Config) -> None:
    """Print the key, and only the key, on standard output."""
    print(add_key(Path(config.file), config.name, config.scopes, config.rate))
    print(
        f"Added to {config.file}, which has its digest only. Next: fer serve --api-keys {config.file}", file=sys.stderr
    )


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("keys new"))
