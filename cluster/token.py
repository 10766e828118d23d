"""The token of a cluster, which all of its nodes and clients need, in the file where Ray looks for it."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

TOKEN = Path.home() / ".ray" / "auth_token"


def make_token() -> None:
    """Make a token, unless there is one; only its user can read it.

    Ray makes one as well, for a Ray that it starts itself: readable to all users, and two of them that start at the
    same time overwrite each other's.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    TOKEN.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(TOKEN.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not TOKEN.is_file():
            whole = TOKEN.with_name(f"{TOKEN.name}.new")  # a reader gets the whole token, or none
            whole.touch(0o600)
            whole.write_text(secrets.token_hex(32))
            whole.replace(TOKEN)
    finally:
        os.close(folder)
    TOKEN.chmod(0o600)
