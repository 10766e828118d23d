"""The replay of recorded learning curves: what answers a proposal, what a search costs, and the hypervolume."""

import math

import numpy as np
import pytest

from benchmarks.search.replay import hypervolume, reached, replay
from benchmarks.search.searchers import SEARCHERS, STAGED
from benchmarks.search.table import SPACES, Recorded, RecordedSpace, Table, cost_of_stages, read_table
from fer.tuning.search import sample_points
from fer.tuning.space import check_point

CLASSIFIER, FUSION = SPACES["classifier_cpu"], SPACES["fusion"]
EPOCHS = 9


@pytest.fixture(scope="module")
def table() -> Table:
    """Forty configurations that learn the better, the higher their learning rate is; nothing else matters."""
    rows = []
    for point in sample_points(CLASSIFIER.space.params, [], 40, seed=0):
        best = 0.5 + math.log10(point["lr"]) / 10
        scores = [best * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)]
        rows.append(Recorded(point=point, scores=scores, cpu_seconds=[1.0] * EPOCHS, latency=point["img_size"] / 10))
    return Table(rows, CLASSIFIER)


def test_the_nearest_configuration_agrees_in_what_matters(table: Table) -> None:
    everything = list(range(len(table.rows)))
    assert all(table.nearest(row.point, everything) == number for number, row in enumerate(table.rows))
    others = everything[1:]
    nearest = table.rows[table.nearest(table.rows[0].point, others)].point["lr"]
    distances = [abs(math.log(table.rows[number].point["lr"] / table.rows[0].point["lr"])) for number in others]
    assert sorted(distances).index(abs(math.log(nearest / table.rows[0].point["lr"]))) < 3


def test_random_search_trains_every_configuration_to_the_end(table: Table) -> None:
    curve = replay(SEARCHERS["random"], table, budget=len(table.rows) * EPOCHS, seed=0)
    assert len(curve) == len(table.rows) * EPOCHS
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == max(max(row.scores) for row in table.rows)
    assert set(curve[EPOCHS - 1 :: EPOCHS]) <= {row.scores[-1] for row in table.rows}


@pytest.mark.slow
def test_early_stopping_finds_more_with_the_same_budget(table: Table) -> None:
    budget = 10 * EPOCHS
    plain = [replay(SEARCHERS["random"], table, budget, seed)[-1] for seed in range(10)]
    for name in ("random, ASHA from epoch 1", "TPE, ASHA from epoch 1, reported as pruned", "BOHB"):
        assert np.mean([replay(SEARCHERS[name], table, budget, seed)[-1] for seed in range(10)]) > np.mean(plain), name


def test_stages_cost_their_share_of_the_time_and_the_last_one_counts() -> None:
    points = sample_points(FUSION.space.params, [], 20, seed=0)
    rows = [
        Recorded(point=point, scores=[0.9, 0.1, 0.2, 0.2, place / 20], cpu_seconds=[4, 1, 1, 1, 3], latency=1)
        for place, point in enumerate(points)
    ]
    assert cost_of_stages(rows) == [8, 2, 2, 2, 6]
    table = Table(rows, FUSION)
    assert "flow_width" not in table.distributions
    curve = replay(STAGED["random"], table, budget=45, seed=0)
    assert len(curve) == 45
    assert (curve[:7].max(), curve[7], curve[9], curve[27]) == (0, 0.9, 0.1, 0.9)
    assert curve[19] in {row.scores[-1] for row in rows}


def test_the_hypervolume_by_hand() -> None:
    """From 0.25 to 0.5 in 2 ms, and to 0.75 in 3 ms, of a rectangle of 0.75 times 4 ms."""
    found = [(0.75, 3.0), (0.4, 2.5), (0.5, 2.0), (0.2, 1.0)]
    assert hypervolume(found, slowest=4.0) == pytest.approx((0.25 * 2 + 0.25 * 1) / 3)


def test_when_the_median_reaches_a_score() -> None:
    curves = np.array([[0.1, 0.2, 0.5], [0.3, 0.4, 0.6], [0.2, 0.3, 0.3]])
    assert reached(curves, 0.3) == 2
    assert reached(curves, 0.7) is None


@pytest.mark.parametrize(("recorded", "reports"), [(CLASSIFIER, EPOCHS), (FUSION, 5)])
def test_a_shipped_table_is_complete(recorded: RecordedSpace, reports: int) -> None:
    rows = read_table(recorded.file)
    assert rows[0].point == recorded.space.default
    for row in rows:
        check_point(recorded.space, row.point, "")
        assert len(row.scores) == len(row.cpu_seconds) == reports
