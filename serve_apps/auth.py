"""Authentication: a bearer token, compared in constant time. The server's processes hold only its digest."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets

from fastapi import HTTPException, Request

from fer.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_token(token: str | None, host: str) -> str | None:
    """The given token; else a new one if other machines can reach ``host``; else None: no authentication."""
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


def required_digest(token: str | None) -> bytes | None:
    """The digest of the token, else of FER_SERVE_TOKEN; None: no authentication. Serve must be running.

    Raises UserError if there is no token although other machines can reach Serve.
    """
    from ray.serve.context import _get_global_client

    token = token or os.environ.get("FER_SERVE_TOKEN")
    client = _get_global_client()
    assert client is not None, "Serve is running"
    host = client.http_config.host
    if token is None and not is_loopback(host):
        raise UserError(f"Serve listens on {host}: set FER_SERVE_TOKEN, or `token` in the application's arguments")
    return digest(token) if token else None


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def check_token(request: Request, expected: bytes | None) -> None:
    """Raise HTTPException 401 for a request without the token whose digest is ``expected``; None allows any."""
    if expected is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), expected):
        raise HTTPException(401, "send the token: `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})
