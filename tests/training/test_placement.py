"""Layouts of jobs on nodes: those of the recipes, and those that a sum of resources would let pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer.errors import UserError
from fer.training.placement import Bundle, check_placement

DGX = {"CPU": 96.0, "GPU": 8.0, "memory": 1e12, "node:10.0.0.1": 1.0}


def workers(count: int, cpus: float, gpus: float = 1) -> Bundle:
    return Bundle("training worker", count, {"CPU": cpus, "GPU": gpus}, "--workers or --cpus-per-worker")


def engines(count: int, cpus: float) -> Bundle:
    return Bundle("engine", count, {"CPU": cpus, "GPU": 1}, "--engines or --cpus-per-engine")


@pytest.mark.parametrize(
    ("bundles", "nodes"),
    [
        ([workers(4, 8)], 1),  # SFT
        ([workers(7, 8), engines(1, 8)], 1),  # GRPO: seven trainers and an engine
        ([workers(16, 8)], 2),
    ],
)
def test_the_layouts_of_the_recipes_fit(bundles: list[Bundle], nodes: int) -> None:
    check_placement(bundles, {f"10.0.0.{n}": DGX for n in range(nodes)})


def test_a_worker_that_fits_on_no_node_is_refused_although_the_sum_would_do() -> None:
    nodes = {f"10.0.0.{n}": {"CPU": 48.0, "GPU": 8.0} for n in range(2)}
    with pytest.raises(UserError, match=r"0 of 1 training workers, of 6 GPUs, 60 CPUs each.*10.0.0.0: 8 GPUs, 48 CPUs"):
        check_placement([workers(1, 60, gpus=6)], nodes)


def test_the_number_that_fits_is_said_with_what_to_lower() -> None:
    with pytest.raises(
        UserError, match=r"6 of 8 training workers, of 1 GPU, 16 CPUs each.*lower --workers or --cpus-per"
    ):
        check_placement([workers(8, 16)], {"10.0.0.1": DGX})
    with pytest.raises(UserError, match="0 of 1 engines"):
        check_placement([workers(8, 8), engines(1, 4)], {"10.0.0.1": DGX})


def test_workers_without_gpus_leave_the_gpu_nodes_to_those_with() -> None:
    nodes = {"gpu": {"CPU": 8.0, "GPU": 1.0}, "cpu": {"CPU": 8.0}}
    readers = Bundle("reader", 1, {"CPU": 8}, "--workers")
    check_placement([readers, workers(1, 8)], nodes)


def test_processes_that_ask_for_a_label_are_placed_on_nodes_with_it() -> None:
    nodes = {"large": {"CPU": 96.0, "GPU": 8.0}, "small": {"CPU": 8.0, "GPU": 1.0}}
    labels = {"large": {"role": "trainer", "zone": "a"}, "small": {"role": "rollout"}}
    trainers = workers(8, 8)._replace(labels={"role": "trainer"})
    rollout = engines(1, 8)._replace(labels={"role": "rollout"})
    check_placement([trainers, rollout], nodes, labels)
    with pytest.raises(UserError, match="1 of 2 engines, of 1 GPU, 8 CPUs each, labelled role=rollout, fit on nodes"):
        check_placement([rollout._replace(number=2)], nodes, labels)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 40))
def test_equal_workers_fit_exactly_if_each_node_takes_its_share(nodes: int, cpus: int, count: int) -> None:
    offered = {str(n): {"CPU": 32.0, "GPU": 8.0} for n in range(nodes)}
    fits = count <= nodes * min(8, 32 // cpus)
    try:
        check_placement([workers(count, cpus)], offered)
    except UserError:
        assert not fits
    else:
        assert fits
