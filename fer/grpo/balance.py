"""Equal work for all trainers: they exchange completions before an update, so that none waits for the longest ones.

Where a completion is trained does not change the loss: it is a sum over the completions of all trainers, divided by
totals of all trainers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from fer.grpo.groups import Row

TOLERANCE = 0.01
"""Difference of the largest from the smallest number of tokens, relative to the mean, that is left as it is."""


def balance_rows(rows: list[Row]) -> list[Row]:
    """This trainer's rows after the exchange: as many as before. Collective."""
    if dist.get_world_size() == 1:
        return rows
    rank = dist.get_rank()
    places = plan_exchange(_gather([row.num_tokens for row in rows]))
    leaving = {
        index for other, row_places in enumerate(places) if other != rank for at, index in row_places if at == rank
    }
    moved = _gather({index: rows[index] for index in leaving})
    return [rows[index] if at == rank else moved[at][index] for at, index in places[rank]]


def plan_exchange(lengths: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Which rows each trainer gets, as (trainer, index) of where they are now.

    ``lengths``: of each trainer's rows, in tokens. The trainers with the most and the fewest tokens swap the two rows
    that bring them closest, until they differ by at most TOLERANCE, or no swap helps.
    """
    places = [[(trainer, index) for index in range(len(own))] for trainer, own in enumerate(lengths)]
    totals = [sum(own) for own in lengths]
    allowed = TOLERANCE * sum(totals) / len(totals)
    while True:
        most, fewest = totals.index(max(totals)), totals.index(min(totals))
        gap = totals[most] - totals[fewest]
        if gap <= allowed:
            return places
        left, i, j = min(
            (abs(gap - 2 * (lengths[a][m] - lengths[b][n])), i, j)
            for i, (a, m) in enumerate(places[most])
            for j, (b, n) in enumerate(places[fewest])
        )
        if left >= gap:
            return places
        (a, m), (b, n) = places[most][i], places[fewest][j]
        difference = lengths[a][m] - lengths[b][n]
        places[most][i], places[fewest][j] = (b, n), (a, m)
        totals[most] -= difference
        totals[fewest] += difference


def _gather(value: Any) -> list[Any]:
    """The values of all trainers. Collective."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
