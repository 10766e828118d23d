from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from fer.ferbench.collect import ModelResults
from fer.ferbench.compare import compare_models, holm
from fer.ferbench.datasets import dataset_labels
from fer.ferbench.results import Result, ResultsFile


def model(name: str, correct: list[bool], first: int = 0) -> ModelResults:
    """A model whose responses are "fear" where they are correct and "anger" elsewhere."""
    labels = dataset_labels("rafdb")
    results = [
        Result(f"{first + i}.png", "fear", labels, ("fear" if is_correct else "anger",), None, None)
        for i, is_correct in enumerate(correct)
    ]
    return ModelResults(name, [ResultsFile(str(Path(name)), "rafdb", results)], {})


def test_pairs_are_compared_on_the_questions_that_they_share() -> None:
    one = model("one", [True] * 90 + [False] * 10)
    other = model("other", [True] * 70 + [False] * 30, first=10)
    [pair] = compare_models([one, other])
    assert pair.questions == 90
    # They share 10 to 99: the first is correct up to 89, the second up to 79.
    assert (pair.only_first, pair.only_second) == (10, 0)
    assert pair.difference.value == pytest.approx(10 / 90)
    assert pair.difference.low < pair.difference.value < pair.difference.high
    assert pair.p == pytest.approx(2 * binom.pmf(0, 10, 0.5))


def test_equal_models_and_models_without_shared_questions() -> None:
    same = [True, False] * 20
    [pair] = compare_models([model("one", same), model("other", same)])
    assert (pair.p, pair.difference.value) == (1, 0)
    assert compare_models([model("one", same), model("other", same, first=1000)]) == []


def test_questions_of_one_image_are_told_apart() -> None:
    def with_two_each(name: str, correct: list[bool]) -> ModelResults:
        found = model(name, correct)
        results = [replace(result, path=f"{i // 2}.png") for i, result in enumerate(found.files[0].results)]
        return replace(found, files=[replace(found.files[0], results=results)])

    [pair] = compare_models([with_two_each("one", [True] * 6), with_two_each("other", [True, False] * 3)])
    assert (pair.questions, pair.only_first, pair.only_second) == (6, 3, 0)


def test_differences_by_chance_are_rarely_significant() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(200):
        sides = random.random((2, 60)) < 0.6
        [pair] = compare_models([model("one", sides[0].tolist()), model("other", sides[1].tolist())])
        found.append(pair.p < 0.05)
    assert np.mean(found) < 0.08


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
