"""Describe what a sweep will need: hours, disk, and the groups of its workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bcq_exp.formatting import counted, duration, size
from bcq_exp.sweep.division import Group, ends

if TYPE_CHECKING:  # it brings torch
    from bcq_exp.training.cost import RunCost

MOST_LINES = 20  # listed groups
START_UP = 4.0  # seconds of a worker until its first step (tests/bench/RESULTS.md, startup)


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
class PlannedGroup:
    """A group of runs to train.

    Args:
        overrides: the overrides of each run.
        cost: the cost of each run; ``None`` if unknown.
    """

    group: Group
    overrides: Sequence[Sequence[str]]
    cost: CohortCost | None


def plan_lines(
    planned: Sequence[PlannedGroup], num_workers: int, damaged: Mapping[str, str]
) -> Iterator[str]:
    """Describe the groups in order, the total time, and the disk space.

    Args:
        damaged: the reason that a run cannot resume, by its name.
    """
    known = all(each.cost is not None for each in planned)
    for each in planned[:MOST_LINES]:
        first, *others = each.overrides
        shared = [word for word in first if all(word in other for other in others)]
        takes = f", about {duration(each.group.seconds)}" if known else ""
        runs = counted(len(each.overrides), "run")
        yield f"  {runs}{takes}{': ' * bool(shared)}{' '.join(shared)}"
    if len(planned) > MOST_LINES:
        yield f"  and {counted(len(planned) - MOST_LINES, 'more group')}"
    for name, reason in damaged.items():
        yield f"  damaged, not trained: {name}: {reason}"
    if planned and known:
        busy = ends([each.group for each in planned], num_workers)
        disk = sum(each.cost.run.disk * len(each.overrides) for each in planned if each.cost)
        workers = counted(len(busy), "worker")
        first, last = (duration(START_UP + seconds) for seconds in (busy[0], busy[-1]))
        between = f" (the first worker ends after {first})" if len(busy) > 1 else ""
        idle = f" ({num_workers - len(busy)} more would be idle)" if len(busy) < num_workers else ""
        yield (
            f"{workers}{idle}: about {last}{between}, including {duration(START_UP)} of start-up; "
            f"{duration(sum(busy))} of work; about {size(disk)} of disk, not counting W&B's files"
        )
    elif planned:
        workers = counted(num_workers, "worker")
        yield f"{workers}; the time of custom algorithms cannot be estimated"
