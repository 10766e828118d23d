"""What replicas observe: windows, feedback, comparisons, and that the observations of several replicas add up."""

from __future__ import annotations

import time

import pytest

from fer.classifier.reference import Reference
from serve_apps.monitoring.comparison import compare
from serve_apps.monitoring.drift import drift_report
from serve_apps.monitoring.observations import MAX_ID, RECENT_SECONDS, VERSIONS, Labelled, Observations
from serve_apps.monitoring.snapshot import Served, merge
from serve_apps.schema import Box, ClassifierInfo, FacePrediction, ImageFaces, InvalidInput, PredictResponse, Timing

LABELS = ["happy", "sad"]
CHAMPION, CHALLENGER = Served("face", "1", "champion"), Served("face", "2", "challenger")
REFERENCE = Reference(labels=[500, 500], confidence_edges=[0.6, 0.8], confidence=[300, 300, 400])


def answer(*labels: str, confidence: float = 0.9, milliseconds: float = 2.0) -> PredictResponse:
    """The response to one image with a face of each label."""
    faces = [
        FacePrediction(
            box=Box(x=0, y=0, w=1, h=1), detection_confidence=None, whole_image=True, label=label,
            confidence=confidence, scores=None, valence=None, arousal=None, uncertain=False,
        )
        for label in labels
    ]  # fmt: skip
    info = ClassifierInfo(name="face", version="1", label_space="two", labels=LABELS, head="both", img_size=8)
    timing = Timing(decoding=1, detection=1, model=milliseconds)
    return PredictResponse(images=[ImageFaces(faces=faces)], model=info, timing=timing)


def shadowed(pairs: list[tuple[str, str]], first: int = 0) -> Observations:
    """A replica whose champion and challenger have given the faces of some requests these labels."""
    replica = Observations()
    for number, (one, other) in enumerate(pairs, first):
        replica.record(CHAMPION, REFERENCE, [f"r{number}"], [answer(one)])
        replica.record(CHALLENGER, REFERENCE, [f"r{number}"], [answer(other)])
        replica.record_agreement(CHAMPION, CHALLENGER, int(one == other), 1)
    return replica


def test_the_window_holds_the_last_faces() -> None:
    replica = Observations(window=3)
    replica.record(CHAMPION, REFERENCE, ["a", "b"], [answer("happy", "happy", confidence=0.5), answer("sad", "sad")])
    window = replica.snapshot().windows[CHAMPION]
    assert window.labels == {"happy": 1, "sad": 2}
    assert window.confidence == {0: 1, 2: 2}


def test_the_last_versions_have_windows_and_a_model_without_reference_has_none() -> None:
    replica = Observations()
    replica.record(CHALLENGER, None, ["a"], [answer("sad")])
    assert not replica.snapshot().windows
    versions = [CHAMPION._replace(version=str(number)) for number in range(VERSIONS + 2)]
    for served in [*versions, versions[3]]:
        replica.record(served, REFERENCE, ["b"], [answer("sad")])
    assert list(replica.windows) == [*versions[2:3], *versions[4:], versions[3]]


def test_a_version_that_does_not_answer_any_more_has_no_recent_window(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Observations()
    replica.record(CHAMPION, REFERENCE, ["a"], [answer("happy")])
    assert replica.windows[CHAMPION].is_recent()
    later = time.time() + RECENT_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert not replica.windows[CHAMPION].is_recent()


def test_a_report_is_that_of_one_replica_with_all_requests() -> None:
    pairs = [("happy", "happy"), ("happy", "sad"), ("sad", "sad"), ("sad", "happy"), ("happy", "happy")]
    parts = [shadowed(pairs[:2]), shadowed(pairs[2:], first=2)]
    whole = shadowed(pairs)
    for number in range(5):
        for replica in (*parts, whole):
            replica.add_feedback(f"r{number}", 0, 0, "happy")
    merged, expected = merge([part.snapshot() for part in parts]), whole.snapshot()
    assert merged.replicas == 2
    assert (merged.versions, merged.pairs) == (expected.versions, expected.pairs)
    drift, same = drift_report(merged), drift_report(expected)
    assert [each.labels for each in drift.versions] == [each.labels for each in same.versions]
    assert [each.faces for each in drift.versions] == [5, 5]
    assert drift.versions[0].shares[0].served == 0.6
    report = compare(merged, CHAMPION, CHALLENGER)
    assert (report.compared, report.labelled) == (5, 5)
    assert report.agreement
    assert report.agreement.value == 0.6
    assert report.champion.accuracy == report.challenger.accuracy  # type: ignore[union-attr]


def test_drift_tells_a_shift_from_chance() -> None:
    replica = Observations()
    replica.record(CHAMPION, REFERENCE, [f"r{n}" for n in range(20)], [answer(LABELS[n % 2]) for n in range(20)])
    (version,) = drift_report(replica.snapshot()).versions
    assert version.labels.level == "none"
    assert version.confidence.level == "large", "all confidences are in one bin"
    assert version.labels.psi.value <= version.labels.chance


def test_feedback_counts_once_and_for_both_versions() -> None:
    replica = shadowed([("happy", "sad"), ("happy", "happy")])
    assert replica.add_feedback("r0", 0, 0, "bored") == Labelled({CHAMPION: "happy", CHALLENGER: "sad"}, LABELS)
    assert not replica.versions[CHAMPION].labelled, "bored is no label of the model"
    assert replica.add_feedback("r0", 0, 0, "sad") == Labelled({CHAMPION: "happy", CHALLENGER: "sad"}, LABELS)
    assert replica.add_feedback("r0", 0, 0, "happy") is None, "it has feedback already"
    assert replica.add_feedback("r1", 0, 0, "happy")
    report = compare(replica.snapshot(), CHAMPION, CHALLENGER)
    assert report.champion.labelled == 2
    assert report.champion.accuracy
    assert report.champion.accuracy.value == 0.5
    assert report.accuracy_difference
    assert report.accuracy_difference.value == 0.5


@pytest.mark.parametrize(("request_id", "image", "face"), [("other", 0, 0), ("r0", 1, 0), ("r0", 0, 1)])
def test_feedback_on_a_face_that_is_not_known(request_id: str, image: int, face: int) -> None:
    assert shadowed([("happy", "sad")]).add_feedback(request_id, image, face, "sad") is None


def test_only_the_last_requests_are_kept() -> None:
    replica = Observations(recent=2)
    for number in range(4):
        replica.record(CHAMPION, REFERENCE, [f"r{number}"], [answer("happy")])
        assert replica.add_feedback(f"r{number}", 0, 0, "sad")
    assert list(replica.recent) == ["r2", "r3"]
    assert replica.labelled == {("r2", 0, 0), ("r3", 0, 0)}
    replica.record(CHAMPION, REFERENCE, ["x" * (MAX_ID + 1), ""], [answer("happy")] * 2)
    assert list(replica.recent) == ["r2", "r3"]


def test_an_invalid_request_is_no_observation() -> None:
    replica = Observations()
    replica.record(CHAMPION, REFERENCE, ["a"], [InvalidInput(reason="no image")])
    assert not replica.snapshot().versions
    assert not replica.snapshot().windows


def test_a_canary_compares_two_samples() -> None:
    replica = Observations()
    for number in range(10):
        served = CHALLENGER if number % 2 else CHAMPION
        time = 4.0 if number % 2 else 2.0
        replica.record(served, REFERENCE, [f"r{number}"], [answer("happy", milliseconds=time + number / 100)])
        replica.add_feedback(f"r{number}", 0, 0, "happy" if number < 8 else "sad")
    report = compare(replica.snapshot(), CHAMPION, CHALLENGER)
    assert (report.compared, report.agreement) == (0, None)
    assert report.labelled == 5
    assert report.accuracy_difference
    assert report.accuracy_difference.low < 0 < report.accuracy_difference.high
    assert report.latency_ratio
    assert report.latency_ratio.value == pytest.approx(2, abs=0.05)


def test_without_a_challenger_the_champion_is_reported_alone() -> None:
    report = compare(shadowed([("happy", "sad")]).snapshot(), CHAMPION, None)
    assert report.champion.batches == 1
    assert report.challenger is None
