"""Typed options: the base class of every config, and the parser that builds a config.

Precedence: command line, then ``--config file.yaml``, then environment (``FER_TRAIN_LR=1e-3``), then defaults.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from fer.errors import UserError


class Options(BaseModel):
    """A group of options, immutable. Unknown options and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


C = TypeVar("C", bound=Options)


def parse(config_class: type[C], argv: Sequence[str], job: str, recipes: Path | None = None) -> C:
    """Build the config of the command ``fer JOB ARGV``.

    ``--config`` takes a YAML file, or the name of a recipe in the folder ``recipes``. ``--help`` prints and exits.
    Raises UserError with one line that names every invalid option.
    """
    config_file = _config_file(argv, job, recipes)

    class Settings(BaseSettings, config_class):  # type: ignore[misc, valid-type]
        __doc__ = config_class.__doc__
        model_config = SettingsConfigDict(env_prefix=_env_prefix(job), extra="forbid", frozen=True)

        config: str | None = Field(None, description=_describe_config(recipes))

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            command_line = CliSettingsSource[BaseSettings](
                settings_cls,
                cli_parse_args=list(argv),
                cli_prog_name=f"fer {job}",
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
                cli_avoid_json=True,
                cli_exit_on_error=False,
            )
            return command_line, YamlConfigSettingsSource(settings_cls, yaml_file=config_file), env_settings

    try:
        values = Settings().model_dump(exclude={"config"}, exclude_unset=True)
    except ValidationError as error:
        raise UserError(describe_errors(error)) from None
    except (SettingsError, TypeError) as error:
        raise UserError(str(error).removeprefix("error parsing CLI: ")) from None
    return config_class.model_validate(values)


def read_yaml(file: Path) -> Any:
    """The content of a file of YAML (or JSON, which is YAML too). Raises UserError if it can't be read."""
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None


def describe_errors(error: ValidationError) -> str:
    """All errors of a validation in one line, each with the name of its option."""
    return "; ".join(_describe_error(item) for item in error.errors())


def _describe_error(item: Any) -> str:
    flag = "--" + ".".join(str(part) for part in item["loc"]).replace("_", "-") if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        return f"unknown option {flag}"
    if item["type"] == "missing":
        return f"{flag} is required"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{flag}: {message} (got {item['input']!r})" if flag else message


def _env_prefix(job: str) -> str:
    """``FER_TRAIN_``, or ``FER_FERBENCH_RUN_`` for a command of two words."""
    return f"FER_{re.sub(r'[ -]', '_', job).upper()}_"


def _config_file(argv: Sequence[str], job: str, recipes: Path | None) -> Path | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?", default=os.environ.get(f"{_env_prefix(job)}CONFIG"))
    name = finder.parse_known_args(argv)[0].config
    if name is None:
        return None
    for candidate in (Path(name), recipes / f"{name}.yaml" if recipes else None):
        if candidate and candidate.is_file():
            return candidate
    raise UserError(
        f"--config: {name!r} is neither a file nor a recipe (recipes: {', '.join(_names(recipes)) or 'none'})"
    )


def _names(recipes: Path | None) -> list[str]:
    return sorted(path.stem for path in recipes.glob("*.yaml")) if recipes else []


def _describe_config(recipes: Path | None) -> str:
    names = _names(recipes)
    return "YAML file of options" + (f", or a recipe: {', '.join(names)}" if names else "")
