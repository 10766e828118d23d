"""`fer promote`: point an alias to a version of a registered model. Servers that follow the alias reload it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from fer.tracking import TrackingOptions

if TYPE_CHECKING:
    from serve_apps.monitoring.comparison import Comparison

NOT_MET = 1
"""Exit code of a rule that is not met."""


class Config(TrackingOptions):
    """Point an alias, such as champion, to a version of a registered model, if a rule allows it."""

    model_config = ConfigDict(populate_by_name=True)

    name: CliPositionalArg[str] = Field(description="Name of the registered model")
    version: int | None = Field(None, ge=1, description="Version to promote; unset: the one with the alias of --from")
    alias: str = Field("champion", description="Alias to set")
    source: str = Field("challenger", alias="from", description="Alias of the version to promote")
    canary: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Promote nothing; give the version with the alias --from this share of the clients, on servers "
        "whose --challenger it is",
    )
    rule: str | None = Field(
        None,
        alias="if",
        description="Promote only if the server at --endpoint has shown this with 95% confidence, such as "
        "'agreement >= 0.95 and accuracy >= champion - 0.01 and latency <= 1.2 * champion'; exit code 1 if not",
    )
    endpoint: str | None = Field(None, description="URL of a server with --challenger, for --if")
    token: str | None = Field(None, description="Token of that server; better set as FER_PROMOTE_TOKEN")
    min_answers: int = Field(100, ge=1, description="Answers behind each comparison of --if, at least")

    @model_validator(mode="after")
    def _check_rule(self) -> Config:
        if (self.rule is None) != (self.endpoint is None):
            raise ValueError("--if and --endpoint need each other")
        if self.canary is not None and (self.rule is not None or self.version is not None):
            raise ValueError("--canary is a share for the version with the alias --from; leave out --if and --version")
        return self


def main(config: Config) -> None:
    """Move the alias, or set the challenger's share, and print it; end with exit code 1 if the rule is not met."""
    from fer.registry import promote, set_canary
    from fer.tracking import tracking_uri

    if config.canary is not None:
        challenger = set_canary(config.name, config.canary, config, config.source)
        print(f"version {challenger} of {config.name} now answers {config.canary:.0%} of the clients as a challenger")
        return
    version = None if config.version is None else str(config.version)
    if config.rule is not None:
        version = checked_version(config, config.rule)
    old, new = promote(config.name, version, config.alias, config, config.source)
    before = f"before: {old}" if old else "a new alias"
    print(f"models:/{config.name}@{config.alias} is now version {new} ({before}), in {tracking_uri(config)}")


def checked_version(config: Config, rule: str) -> str:
    """The version to promote, if it is the server's challenger and meets the rule; else this process ends."""
    from fer.errors import UserError
    from fer.registry import model_version
    from serve_apps.monitoring.promotion_rule import check_rule, parse_rule

    clauses = parse_rule(rule)
    reference = (
        f"models:/{config.name}/{config.version}" if config.version else f"models:/{config.name}@{config.source}"
    )
    version = model_version(reference, config)
    comparison = fetch_comparison(config)
    challenger = comparison.challenger
    if challenger is None:
        raise UserError(f"the server at {config.endpoint} has no challenger: start it with --challenger {reference}")
    if (challenger.model, challenger.version) != (config.name, version):
        raise UserError(
            f"the challenger at {config.endpoint} is {challenger.model} version {challenger.version}, "
            f"not {config.name} version {version}"
        )
    verdicts = check_rule(clauses, comparison, config.min_answers)
    for verdict in verdicts:
        print(f"{'holds' if verdict.holds else 'not shown'}: {verdict.clause.text} ({verdict.figures})")
    if not all(verdict.holds for verdict in verdicts):
        print(f"{config.name} version {version} is not promoted")
        sys.exit(NOT_MET)
    return version


def fetch_comparison(config: Config) -> Comparison:
    """What the server has observed. Raises UserError if it can't be reached, refuses, or is none of Ferry's."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from pydantic import ValidationError

    from fer.errors import UserError
    from serve_apps.monitoring.comparison import Comparison

    url = f"{str(config.endpoint).rstrip('/')}/v1/comparison"
    headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=30) as response:
            return Comparison.model_validate_json(response.read())
    except HTTPError as error:
        hint = "; set FER_PROMOTE_TOKEN" if error.code == 401 else ""
        raise UserError(f"{url} answers with status {error.code}{hint}") from None
    except (OSError, HTTPException, ValueError, ValidationError) as error:
        raise UserError(f"{url} gives no comparison: {(str(error) or repr(error)).splitlines()[0]}") from None


if __name__ == "__main__":
    from jobs.__main__ import run_job

    sys.exit(run_job("promote"))
