"""Authentication: a token, or API keys with scopes and rates. The server's processes hold only their digests."""

# Annotations stay objects here, as in the deployments.
import asyncio
import ipaddress
import logging
import math
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.requests import HTTPConnection

from fer.errors import UserError
from serve_apps.access.api_keys import SCOPES, ApiKey, Scope, digest, read_keys
from serve_apps.access.rate_limit import TokenBucket

REPLICAS_SECONDS = 10
"""Interval between two looks at the number of replicas."""

log = logging.getLogger("ray.serve")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_loopback(host: str | None) -> bool:
    """Whether a request with this Host header was meant for this machine: without one, it is no browser's."""
    if host is None:
        return True
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def choose_token(token: str | None, host: str) -> str | None:
    """The given token; else a new one if other machines can reach ``host``; else None: no authentication."""
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


def accepted_keys(token: str | None, api_keys: str | None) -> list[ApiKey]:
    """The keys of a file, and the token (else FER_SERVE_TOKEN) as a key for everything. None: no authentication.

    Serve must be running. Raises UserError if there is no key although other machines can reach Serve.
    """
    from ray.serve.context import _get_global_client

    keys = read_keys(Path(api_keys)) if api_keys else []
    if token := token or os.environ.get("FER_SERVE_TOKEN"):
        keys.append(ApiKey(name="token", digest=digest(token), scopes=list(SCOPES)))
    client = _get_global_client()
    assert client is not None, "Serve is running"
    host = client.http_config.host
    if not keys and not is_loopback(host):
        raise UserError(
            f"Serve listens on {host}: set FER_SERVE_TOKEN, or `token` or `api_keys` in the application's arguments"
        )
    return keys


class Gate:
    """Who may do what with one replica of an application. Without keys, everybody on this machine may do everything."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        # Found by digest: how long that takes says nothing about any key.
        self.keys = {key.digest: key for key in keys}
        self.buckets = {key.name: TokenBucket(key.requests_per_minute) for key in keys if key.requests_per_minute}
        self.replicas = 1

    def admit(self, request: Request, scope: Scope) -> None:
        """Raise HTTPException 401 without a known key, 403 for another scope than its own, 429 above its rate.

        Without keys, 421 for another server's name.
        """
        if not self.is_addressed(request):
            raise HTTPException(421, "without a token, this server is for its own machine: ask for http://localhost")
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        key = self.identify(secret.strip() if scheme.lower() == "bearer" else "", scope)
        if key and (seconds := self.seconds_to_wait(key)):
            reason = f"more than {key.requests_per_minute} requests a minute with this key; try again"
            raise HTTPException(429, reason, {"Retry-After": str(math.ceil(seconds))})

    def is_addressed(self, connection: HTTPConnection) -> bool:
        """Whether the client means this server.

        Where no key is needed, a web site could let its own name stand for 127.0.0.1 (DNS rebinding): in a browser of
        this machine, its pages could then read every response.
        """
        return bool(self.keys) or names_loopback(connection.headers.get("host"))

    def identify(self, secret: str, scope: Scope) -> ApiKey | None:
        """The key that a client has sent; None if there are none. Raises HTTPException 401 or 403."""
        if not self.keys:
            return None
        key = self.keys.get(digest(secret))
        if key is None:
            reason = "send the token or an API key: `Authorization: Bearer TOKEN`"
            raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})
        if scope not in key.scopes:
            raise HTTPException(403, f"this key is not for {scope!r}, but for {', '.join(key.scopes)}")
        return key

    def seconds_to_wait(self, key: ApiKey) -> float:
        """0.0, and the request counts; or the seconds until the key may be used again."""
        bucket = self.buckets.get(key.name)
        return bucket.take(time.monotonic(), 1 / self.replicas) if bucket else 0.0

    async def follow_replicas(self) -> None:
        """Know the number of replicas, which share the rates as they share the requests. Returns if there is no rate.

        For a background task of a replica.
        """
        from ray.exceptions import RayError

        while self.buckets:
            try:
                self.replicas = await asyncio.to_thread(_running_replicas)
            except RayError as error:  # the controller is being restarted
                log.warning("still counting on %d replicas: %s", self.replicas, error)
            await asyncio.sleep(REPLICAS_SECONDS)


def _running_replicas() -> int:
    """How many replicas of this replica's deployment run."""
    from ray import serve
    from ray.serve.schema import ReplicaState

    context = serve.get_replica_context()
    deployment = serve.status().applications[context.app_name].deployments[context.deployment]
    return max(1, deployment.replica_states.get(ReplicaState.RUNNING, 0))
