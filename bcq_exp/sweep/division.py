"""Divide runs among workers by their costs, so that the workers end together."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

FINER = (1, 2, 4, 8)  # numbers of groups per worker to try
WORTHWHILE = 0.97  # split further only if it saves at least 3%


@dataclass(frozen=True)
class Divisible:
    """Runs that can be trained together.

    Args:
        num_runs: the number of runs.
        most: the most runs in one group.
        seconds: the time that a group of so many runs takes.
    """

    num_runs: int
    most: int
    seconds: Callable[[int], float]


@dataclass(frozen=True)
class Group:
    """Runs ``first`` to ``last`` (excluded) of a kind, and the seconds that they take together."""

    kind: int
    first: int
    last: int
    seconds: float


def divided(kinds: Sequence[Divisible], num_workers: int) -> list[Group]:
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


def _groups(kinds: Sequence[Divisible], num_workers: int, finer: int) -> list[Group]:
    wholes = [kind.seconds(kind.num_runs) for kind in kinds]
    share = sum(wholes) / (num_workers * finer)
    groups = []
    for number, (kind, whole) in enumerate(zip(kinds, wholes, strict=True)):
        parts = max(-(-kind.num_runs // kind.most), round(whole / share))
        parts = min(kind.num_runs, parts)
        bounds = [kind.num_runs * i // parts for i in range(parts + 1)]
        groups += [
            Group(number, first, last, kind.seconds(last - first))
            for first, last in pairwise(bounds)
        ]
    return sorted(groups, key=lambda group: -group.seconds)
