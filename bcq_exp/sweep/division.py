"""Divide runs among workers by their costs, so that the workers end together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it brings torch
    from bcq_exp.training.cost import RunCost

FINER = (1, 2, 4, 8)  # numbers of groups per worker to try
WORTHWHILE = 0.97  # split further only if it saves at least 3%


@dataclass(frozen=True)
class CohortCost:
    """The cost of the runs of a cohort.

    Args:
        run: the cost of one run.
        num_steps: the steps left of each run.
        num_threads: the threads that train a group.
    """

    run: RunCost
    num_steps: int
    num_threads: int

    def seconds(self, num_runs: int) -> float:
        """Seconds of a group of so many runs."""
        return self.run.seconds(self.num_steps, num_runs, self.num_threads)


@dataclass(frozen=True)
class Kind:
    """Runs that can be trained together.

    Args:
        runs: the runs.
        most: the most runs in one group.
        cost: the cost of each; ``None`` if unknown.
    """

    runs: Sequence[Any]
    most: int
    cost: CohortCost | None


@dataclass(frozen=True)
class Group:
    """Runs of a kind that are trained together, and the seconds that they take.

    Where the cost of a kind is unknown, the seconds of all groups are their numbers of runs.
    """

    kind: Kind
    runs: Sequence[Any]
    seconds: float


def divided(kinds: Sequence[Kind], num_workers: int) -> list[Group]:
    """Divide runs into groups, longest first: each free worker takes the next one.

    No group is more than an even share of the work; groups are smaller where that ends the sweep
    sooner.
    """
    found = _groups(kinds, num_workers, FINER[0])
    for finer in FINER[1:]:
        other = _groups(kinds, num_workers, finer)
        if max(ends(other, num_workers)) < WORTHWHILE * max(ends(found, num_workers)):
            found = other
    return found


def ends(groups: Sequence[Group], num_workers: int) -> list[float]:
    """Seconds after which each busy worker ends, if all begin at once."""
    busy = [0.0] * min(num_workers, len(groups))
    for group in groups:
        heapq.heapreplace(busy, busy[0] + group.seconds)
    return sorted(busy)


def _groups(kinds: Sequence[Kind], num_workers: int, finer: int) -> list[Group]:
    known = all(kind.cost is not None for kind in kinds)

    def group(kind: Kind, runs: Sequence[Any]) -> Group:
        seconds = kind.cost.seconds(len(runs)) if known and kind.cost else float(len(runs))
        return Group(kind, runs, seconds)

    wholes = [group(kind, kind.runs) for kind in kinds]
    share = sum(whole.seconds for whole in wholes) / (num_workers * finer)
    groups = []
    for whole in wholes:
        num_runs = len(whole.runs)
        parts = max(-(-num_runs // whole.kind.most), round(whole.seconds / share))
        parts = min(num_runs, parts)
        bounds = [num_runs * i // parts for i in range(parts + 1)]
        groups += [group(whole.kind, whole.runs[a:b]) for a, b in pairwise(bounds)]
    return sorted(groups, key=lambda group: -group.seconds)
