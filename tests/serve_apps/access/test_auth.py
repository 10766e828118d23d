"""Tokens, API keys and their rates, without a server."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import UserError
from jobs.__main__ import main
from serve_apps.access.api_keys import SCOPES, ApiKey, add_key, digest, read_keys
from serve_apps.access.auth import Gate, choose_token, is_loopback
from serve_apps.access.rate_limit import BURST_SECONDS, TokenBucket

RATES = st.integers(1, 60_000)
GAPS = st.lists(st.floats(0, 100), max_size=200)
"""Seconds between requests."""


def request(authorization: str | None) -> Request:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return Request({"type": "http", "headers": headers})


def key(name: str, secret: str, scopes: list, rate: int | None = None) -> ApiKey:
    return ApiKey(name=name, digest=digest(secret), scopes=scopes, requests_per_minute=rate)


def refusal(gate: Gate, authorization: str | None, scope: str = "predict") -> HTTPException:
    with pytest.raises(HTTPException) as caught:
        gate.admit(request(authorization), scope)  # type: ignore[arg-type]
    return caught.value


def test_a_token_is_generated_only_if_other_machines_can_connect() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert choose_token(None, "127.0.0.1") is None
    assert choose_token("given", "127.0.0.1") == "given"
    generated = choose_token(None, "0.0.0.0")
    assert generated
    assert len(generated) >= 32
    assert generated != choose_token(None, "0.0.0.0")


def test_a_known_key_is_required() -> None:
    gate = Gate([key("token", "a token of some length", list(SCOPES)), key("kiosk", "another", ["predict"])])
    gate.admit(request("Bearer a token of some length"), "vlm")
    gate.admit(request("bearer another"), "predict")
    for header in (None, "", "Bearer", "Bearer wrong", "Basic another", f"Bearer {digest('another')}"):
        refused = refusal(gate, header)
        assert refused.status_code == 401
        assert refused.headers == {"WWW-Authenticate": "Bearer"}
    Gate([]).admit(request(None), "predict")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        (b"127.0.0.1:8000", True),
        (b"localhost", True),
        (b"[::1]:8000", True),
        (b"evil.example:8000", False),
        (b"localhost.evil.example", False),
        (b"127.0.0.1.evil.example", False),
        (b"192.168.1.5", False),
        (b"[", False),
        (b"", False),
    ],
)
def test_without_a_key_no_other_name_may_stand_for_this_machine(host: bytes, own: bool) -> None:
    """Else a page of evil.example whose name resolves to 127.0.0.1 could read every response."""
    named = Request({"type": "http", "headers": [(b"host", host), (b"authorization", b"Bearer secret")]})
    Gate([key("kiosk", "secret", ["predict"])]).admit(named, "predict")
    if own:
        Gate([]).admit(named, "predict")
    else:
        with pytest.raises(HTTPException) as refused:
            Gate([]).admit(named, "predict")
        assert refused.value.status_code == 421


def test_a_key_is_for_its_scopes_only() -> None:
    gate = Gate([key("kiosk", "secret", ["predict", "metadata"])])
    gate.admit(request("Bearer secret"), "metadata")
    refused = refusal(gate, "Bearer secret", "vlm")
    assert refused.status_code == 403
    assert refused.detail == "this key is not for 'vlm', but for predict, metadata"


def test_a_key_above_its_rate_is_told_when_to_come_back() -> None:
    gate = Gate([key("slow", "secret", ["predict"], rate=6), key("free", "other", ["predict"])])
    gate.admit(request("Bearer secret"), "predict")
    refused = refusal(gate, "Bearer secret")
    assert refused.status_code == 429
    assert refused.headers == {"Retry-After": "10"}
    assert refused.detail == "more than 6 requests a minute with this key; try again"
    for _ in range(100):
        gate.admit(request("Bearer other"), "predict")


def test_replicas_share_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_apps.access.auth.time.monotonic", lambda: 1.0)
    gates = [Gate([key("k", "secret", ["predict"], rate=600)]) for _ in range(4)]
    admitted = 0
    for gate in gates:
        gate.replicas = len(gates)
        while True:
            try:
                gate.admit(request("Bearer secret"), "predict")
            except HTTPException:
                break
            admitted += 1
    assert 600 * BURST_SECONDS / 60 <= admitted <= 600 * BURST_SECONDS / 60 + len(gates)


@given(RATES, GAPS, st.integers(1, 16))
def test_no_interval_has_more_requests_than_burst_and_rate(rate: int, gaps: list[float], replicas: int) -> None:
    bucket, now, admitted = TokenBucket(rate), 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now, 1 / replicas) == 0.0:
            admitted.append(now)
    per_second = rate / 60 / replicas
    room = max(1.0, BURST_SECONDS * per_second)
    for first, start in enumerate(admitted):
        for count, end in enumerate(admitted[first:], 1):
            assert count <= room + (end - start) * per_second + 1e-6


@given(RATES, GAPS)
def test_a_refused_request_succeeds_after_the_wait(rate: int, gaps: list[float]) -> None:
    bucket, now = TokenBucket(rate), 0.0
    for gap in gaps:
        now += gap
        if wait := bucket.take(now):
            assert 0 < wait <= 60 / rate
            now += math.ceil(wait)  # Retry-After is in whole seconds
            assert bucket.take(now) == 0.0


@given(RATES, st.lists(st.floats(1.0, 5.0), max_size=200))
def test_requests_below_the_rate_are_never_refused(rate: int, gaps: list[float]) -> None:
    bucket, now = TokenBucket(rate), 0.0
    for gap in gaps:
        now += gap * 60 / rate * (1 + 1e-6)
        assert bucket.take(now) == 0.0


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_a_new_key_is_printed_once_and_stored_as_its_digest(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    command = ["keys", "new", "--file", str(file), "--name"]
    assert main([*command, "kiosk", "--scopes", "predict,live", "--rate", "600"]) == 0
    assert main([*command, "studio"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first != second
    assert first.startswith("fer_")
    assert len(first) > 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert first not in file.read_text()
    assert read_keys(file) == [
        key("kiosk", first, ["predict", "live"], 600), key("studio", second, ["predict", "live", "metadata"]),
    ]  # fmt: skip
    if name.endswith(".json"):
        assert len(json.loads(file.read_text())) == 2
    assert main([*command, "kiosk"]) == 2
    assert "has a key 'kiosk' already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not YAML"),
        ("keys: 3", "not a list of API keys"),
        ("- {name: a, digest: abc, scopes: [predict]}", "--0.digest: string should match"),
        ("- {name: a, digest: %s, scopes: [all]}", "--0.scopes.0: input should be 'predict', 'live'"),
        ("- {name: a, digest: %s, scopes: [vlm]}\n- {name: b, digest: %s, scopes: [vlm]}", "two API keys with the dig"),
    ],
)
def test_a_mistake_in_the_file_is_a_user_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text.replace("%s", digest("a")))
    with pytest.raises(UserError, match=message):
        read_keys(file)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_keys(tmp_path / "keys.yaml")
    with pytest.raises(UserError, match=r"can't write .*: choose another --file"):
        add_key(tmp_path / "nowhere" / "keys.yaml", "one", ["vlm"], None)
    add_key(tmp_path / "keys.yaml", "one", ["vlm"], None)
    assert [each.name for each in read_keys(tmp_path / "keys.yaml")] == ["one"]
