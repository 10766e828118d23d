"""The challenger: who answers which client, and what a comparison in shadow counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer.data.images import encode_png
from fer.errors import UserError
from fer.options import parse
from fer.registry import promote, set_canary
from fer.tracking import TrackingOptions
from serve_apps.classifier.challenger import Challenger, agreement
from serve_apps.classifier.replica import BatchItem, Classifier
from serve_apps.monitoring.observations import Observations
from serve_apps.options import ServeConfig
from serve_apps.schema import InvalidInput, PredictResponse

PNG = encode_png(np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8))
CLIENTS = [f"client-{number}" for number in range(1000)]


@pytest.fixture(scope="module")
def config(registry: TrackingOptions) -> ServeConfig:
    return ServeConfig(
        **registry.model_dump(), model="models:/face@champion", challenger="models:/face@challenger", canary=0.3,
        detector="none", device="cpu",
    )  # fmt: skip


def ask(config: ServeConfig, clients: list[str]) -> list[PredictResponse]:
    """The responses to a batch of one request of each client."""
    return observe(config, clients)[0]


def observe(config: ServeConfig, clients: list[str]) -> tuple[list[PredictResponse], Observations]:
    """These responses, and what the replica has observed once its background work is done."""

    async def main() -> tuple[list[PredictResponse], Observations]:
        replica = Classifier(config, [])
        items = [BatchItem([PNG], await replica.choose(None, client), client) for client in clients]
        predict_batch = Classifier.predict_batch.__wrapped__  # without the queue, which needs a Serve replica
        responses = await predict_batch(replica, items)
        await asyncio.gather(*replica.tasks)
        return responses, replica.observer.observations

    responses, observations = asyncio.run(main())
    assert all(isinstance(response, PredictResponse) for response in responses)
    return responses, observations


def load_info(folder: object, name: str, version: str) -> Any:
    """A model without weights."""
    return SimpleNamespace(info=SimpleNamespace(version=version))


def test_a_share_of_the_clients_gets_the_challenger_and_keeps_it(config: ServeConfig) -> None:
    challenger, larger = (Challenger(config.model_copy(update={"canary": share}), load_info) for share in (0.3, 0.6))
    roles = [challenger.role(client) for client in CLIENTS]
    assert 0.25 < Counter(roles)["challenger"] / len(roles) < 0.35
    assert roles == [challenger.role(client) for client in CLIENTS]
    stayed = [larger.role(client) for client, role in zip(CLIENTS, roles, strict=True) if role == "challenger"]
    assert set(stayed) == {"challenger"}


def test_the_share_follows_the_registry(config: ServeConfig, caplog: pytest.LogCaptureFixture) -> None:
    def share(challenger: Challenger) -> float:
        challenger.update_share()
        return sum(challenger.role(client) == "challenger" for client in CLIENTS) / len(CLIENTS)

    challenger = Challenger(config, load_info)
    assert 0.25 < share(challenger) < 0.35
    assert set_canary("face", 0.6, config) == "2"
    try:
        assert 0.55 < share(challenger) < 0.65
        promote("face", "1", "challenger", config)
        assert 0.55 < share(challenger) < 0.65, "version 2 is still in memory"
        challenger.model.switch(challenger.model.reference)
        assert 0.25 < share(challenger) < 0.35
        promote("face", "2", "challenger", config)
        challenger.model.switch(challenger.model.reference)
        challenger.config = config.model_copy(update={"tracking_uri": "sqlite:////nowhere/mlflow.db"})
        challenger.share = 0.5
        assert 0.45 < share(challenger) < 0.55
        assert "could not look up the challenger's share" in caplog.text
    finally:
        promote("face", "2", "challenger", config)
        set_canary("face", config.canary, config)


def test_both_versions_answer_in_one_batch_and_say_so(config: ServeConfig) -> None:
    responses = ask(config, CLIENTS[:16])
    versions = {response.role: response.model.version for response in responses}
    assert versions == {"champion": "1", "challenger": "2"}
    for response in responses:
        assert (response.model.version == "2") == (response.role == "challenger")
        assert (response.images[0].faces[0].valence is not None) == (response.role == "challenger")
        assert response.timing.model > 0


def test_in_shadow_the_champion_answers_and_the_agreement_is_counted(config: ServeConfig) -> None:
    responses, observed = observe(config.model_copy(update={"canary": 0.0, "shadow": True}), CLIENTS[:8])
    assert {response.role for response in responses} == {"champion"}
    ((versions, pair),) = observed.pairs.items()
    assert [served.version for served in versions] == ["1", "2"]
    assert pair.faces == 8
    assert {len(served) for served in observed.recent.values()} == {2}, "feedback on a request is for both versions"


def test_agreement_leaves_out_invalid_requests(config: ServeConfig) -> None:
    responses = ask(config.model_copy(update={"canary": 0.0, "challenger": None}), ["a", "b"])
    other = responses[1].model_copy(deep=True)
    other.images[0].faces[0].label = "another"
    invalid = InvalidInput(reason="no image")
    assert agreement([responses[0], responses[1], invalid], [responses[0], other, invalid]) == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--canary", "0.1"], "need a --challenger"),
        (["--challenger", "models:/face@challenger"], "either --canary or --shadow"),
        (["--challenger", "m", "--shadow", "--canary", "0.1"], "either --canary or --shadow"),
    ],
)
def test_options_that_do_not_fit_together(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ServeConfig, options, "serve")
