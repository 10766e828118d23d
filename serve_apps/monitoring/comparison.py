"""The champion beside its challenger: agreement, latency, and accuracy on faces whose true label is known."""

from __future__ import annotations

from pydantic import Field

from fer.evaluation.bootstrap import Estimate
from fer.evaluation.intervals import Moments, difference, mean, paired_difference, proportion, ratio_of_means
from serve_apps.monitoring.snapshot import PairSums, Served, Snapshot, VersionSums
from serve_apps.schema import Schema


class VersionReport(Schema):
    """One version. Estimates have 95% intervals, and are null without data."""

    model: str
    version: str
    batches: int
    latency: Estimate | None = Field(description="Mean time of the network per batch, in milliseconds")
    labelled: int = Field(description="Faces whose true label is known from feedback")
    accuracy: Estimate | None = Field(description="Fraction of these faces with the true label")


class Comparison(Schema):
    """What all replicas have observed since they have started. Estimates have 95% intervals, and are null without data.

    Differences are the challenger's value minus the champion's, ratios the challenger's divided by the champion's.
    """

    replicas: int
    champion: VersionReport
    challenger: VersionReport | None
    compared: int = Field(0, description="Faces that both have predicted, in shadow")
    agreement: Estimate | None = Field(None, description="Fraction of these faces with the same label")
    labelled: int = Field(0, description="Faces with feedback behind the difference in accuracy, in the smaller sample")
    accuracy_difference: Estimate | None = None
    latency_ratio: Estimate | None = None


def compare(snapshot: Snapshot, champion: Served, challenger: Served | None) -> Comparison:
    """The comparison of two versions; of the champion alone, if there is no challenger."""
    first = snapshot.versions.get(champion, VersionSums())
    report = Comparison(replicas=snapshot.replicas, champion=_version_report(champion, first), challenger=None)
    if challenger is None:
        return report
    second = snapshot.versions.get(challenger, VersionSums())
    pair = snapshot.pairs.get((champion, challenger), PairSums())
    report.challenger = _version_report(challenger, second)
    report.compared, report.agreement = pair.faces, _proportion(pair.agreed, pair.faces)
    if pair.labelled:  # in shadow: both have predicted the same faces
        report.labelled = pair.labelled
        report.accuracy_difference = paired_difference(pair.challenger_only, pair.champion_only, pair.labelled)
    elif report.champion.accuracy and report.challenger.accuracy:
        report.labelled = min(first.labelled, second.labelled)
        report.accuracy_difference = difference(report.challenger.accuracy, report.champion.accuracy)
    if min(first.batches, second.batches) > 1:
        report.latency_ratio = ratio_of_means(_moments(second), _moments(first))
    return report


def _version_report(served: Served, sums: VersionSums) -> VersionReport:
    return VersionReport(
        model=served.model,
        version=served.version,
        batches=sums.batches,
        latency=mean(_moments(sums)) if sums.batches > 1 else None,
        labelled=sums.labelled,
        accuracy=_proportion(sums.correct, sums.labelled),
    )


def _moments(sums: VersionSums) -> Moments:
    return Moments(sums.batches, sums.milliseconds, sums.squares)


def _proportion(hits: int, total: int) -> Estimate | None:
    return proportion(hits, total) if total else None
