"""API keys: a file with the digest of each key, what it may be used for, and how often. No key itself is kept."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from fer.errors import UserError
from fer.options import Options, describe_errors, read_yaml

Scope = Literal["predict", "live", "vlm", "dynamics", "feedback", "metadata"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class ApiKey(Options):
    """One entry of the file."""

    name: str = Field(pattern=r"^[\w.@-]+$", description="Who has the key, for people")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, as hexadecimal digits")
    scopes: list[Scope] = Field(min_length=1)
    requests_per_minute: int | None = Field(None, ge=1, description="Rate for each application; null: no limit")


KEYS = TypeAdapter(list[ApiKey])


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()  # a client's JSON may have surrogates


def read_keys(file: Path) -> list[ApiKey]:
    """The entries of a file of YAML or JSON. Raises UserError if it is missing or has a mistake."""
    try:
        keys = KEYS.validate_python(read_yaml(file) or [])
    except ValidationError as error:
        raise UserError(f"{file} is not a list of API keys: {describe_errors(error)}") from None
    for what in ("name", "digest"):
        values = [getattr(key, what) for key in keys]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise UserError(f"{file} has two API keys with the {what} {twice}")
    return keys


def add_key(file: Path, name: str, scopes: Sequence[Scope], requests_per_minute: int | None) -> str:
    """Add a new key to the file, which only its owner can read; return the key.

    Raises UserError for a taken name, and if the file can't be written.
    """
    keys = read_keys(file) if file.exists() else []
    if name in [key.name for key in keys]:
        raise UserError(f"{file} has a key {name!r} already: choose another --name, or delete its entry")
    secret = f"fer_{secrets.token_urlsafe(32)}"
    added = ApiKey(name=name, digest=digest(secret), scopes=list(scopes), requests_per_minute=requests_per_minute)
    entries = [key.model_dump() for key in (*keys, added)]
    text = json.dumps(entries, indent=2) if file.suffix == ".json" else yaml.safe_dump(entries, sort_keys=False)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        scratch.touch(0o600)
        scratch.write_text(text)
        scratch.replace(file)
    except OSError as error:
        raise UserError(f"can't write {file} ({error.strerror}): choose another --file") from None
    return secret
