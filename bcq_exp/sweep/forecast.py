"""Describe what a sweep will need: hours, disk, and the groups of its workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bcq_exp.formatting import counted, duration, size
from bcq_exp.sweep.division import Group, ends

MOST_LINES = 20  # listed groups
START_UP = 4.0  # seconds of a worker until its first step (tests/bench/RESULTS.md, startup)


def plan_lines(
    groups: Sequence[Group], num_workers: int, damaged: Mapping[str, str]
) -> Iterator[str]:
    """Describe the groups in order, the total time, and the disk space.

    Args:
        damaged: the reason that a run cannot resume, by its name.
    """
    known = all(group.kind.cost is not None for group in groups)
    for group in groups[:MOST_LINES]:
        first, *others = (run.overrides for run in group.runs)
        shared = [word for word in first if all(word in other for other in others)]
        takes = f", about {duration(group.seconds)}" if known else ""
        runs = counted(len(group.runs), "run")
        yield f"  {runs}{takes}{': ' * bool(shared)}{' '.join(shared)}"
    if len(groups) > MOST_LINES:
        yield f"  and {counted(len(groups) - MOST_LINES, 'more group')}"
    for name, reason in damaged.items():
        yield f"  damaged, not trained: {name}: {reason}"
    if groups and known:
        busy = ends(groups, num_workers)
        disk = sum(each.kind.cost.run.disk * len(each.runs) for each in groups if each.kind.cost)
        workers = counted(len(busy), "worker")
        first, last = (duration(START_UP + seconds) for seconds in (busy[0], busy[-1]))
        between = f" (the first worker ends after {first})" if len(busy) > 1 else ""
        idle = f" ({num_workers - len(busy)} more would be idle)" if len(busy) < num_workers else ""
        yield (
            f"{workers}{idle}: about {last}{between}, including {duration(START_UP)} of start-up; "
            f"{duration(sum(busy))} of work; about {size(disk)} of disk, not counting W&B's files"
        )
    elif groups:
        workers = counted(num_workers, "worker")
        yield f"{workers}; the time of custom algorithms cannot be estimated"
