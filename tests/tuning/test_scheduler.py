"""ASHA with replayed trials, and the limits of population based training."""

from collections.abc import Callable
from dataclasses import replace

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer.tuning.scheduler import ASHA, clip_to_space, make_scheduler
from fer.tuning.search import SCORE
from fer.tuning.space import SearchSpace
from fer.tuning.trial_record import TrialRecord

MakeRecord = Callable[..., TrialRecord]


def test_asha_continues_from_the_rungs_of_an_earlier_session(space: SearchSpace, record: MakeRecord) -> None:
    """Nine trials reached epoch 1 before the kill: a tenth that is worse than the best third of them is stopped."""
    replayed = ASHA(space, max_progress=9)
    replayed.replay([record(number, [0.1 * number, 0.1 * number], "stopped") for number in range(9)])
    fresh = ASHA(space, max_progress=9)
    decisions = []
    for scheduler in (replayed, fresh):
        trial = Trial("x", stub=True, trial_id="tenth")
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, {"progress": 1, SCORE: 0.4}))
    assert decisions == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert replayed.stopped == {"tenth"}


def test_a_population_stays_in_the_space(space: SearchSpace) -> None:
    mutable = replace(space, mutable=("lr",))
    assert clip_to_space(mutable, {"trial": {"point": {"lr": 9e-5}}}) == {"trial": {"point": {"lr": 1e-4}}}
    assert clip_to_space(mutable, {"trial": {"point": {"lr": 0.012}}}) == {"trial": {"point": {"lr": 0.01}}}


def test_a_population_is_perturbed_in_a_short_training_too(space: SearchSpace) -> None:
    patient = replace(space, grace_period=3)
    for epochs, interval in ((1, 1), (2, 1), (5, 2), (30, 3)):
        assert make_scheduler(patient, "pbt", "none", epochs, [])._perturbation_interval == interval
