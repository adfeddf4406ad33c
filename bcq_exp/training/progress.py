"""Progress of training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol, Self

from bcq_exp.formatting import clock, duration

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0
BAR_WIDTH = 10
LONGEST_TITLE = 24


@dataclass(frozen=True)
class Part:
    """One group of runs as a part of a sweep.

    Args:
        number, num_groups: this is group ``number`` of ``num_groups``, from 1.
        later: the work after this group, as a multiple of its own.
    """

    number: int
    num_groups: int
    later: float


class Progress(Protocol):
    """Shows steps as they are taken; a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        """Show that ``step`` gradient steps are done, with ``losses`` if there are new ones."""


def progress(start: int, num_steps: int, title: str, part: Part | None = None) -> Progress:
    """Show a bar where standard output is a terminal, lines otherwise.

    Workers of a launcher share their parent's terminal, so they draw no bar.

    Args:
        start, num_steps: the first and the last step.
        part: the group that the runs are in a sweep; ``None`` outside sweeps.
    """
    is_worker = multiprocessing.parent_process() is not None
    group = f"group {part.number} of {part.num_groups}" if part and part.num_groups > 1 else ""
    pace = _Pace(start, num_steps, 0.0 if part is None else part.later)
    if sys.stdout.isatty() and not is_worker:
        return _Bar(group or title, pace, transient=bool(group))
    return _Lines(f"{group}: " if group else "", pace)


class _Pace:
    """Steps per second over the last third of the steps so far, and the time left.

    The earlier ones may be slower (compilation) or faster (an online agent's first actions, which
    are random).

    Args:
        start, num_steps: the first and the last step.
        later: the work after the last step, as a multiple of that from the first to the last.
    """

    def __init__(self, start: int, num_steps: int, later: float) -> None:
        self.start, self.num_steps = start, num_steps
        self.num_later = later * (num_steps - start)  # in steps
        self._times = deque[tuple[int, float]]()
        self._step, self.rate = 0, 0.0

    def update(self, step: int) -> None:
        now = time.monotonic()
        self._times.append((step, now))
        while len(self._times) > 2 and 3 * self._times[1][0] <= self.start + 2 * step:
            self._times.popleft()
        first, began = self._times[0]
        self._step, self.rate = step, (step - first) / max(now - began, 1e-9)

    @property
    def left(self) -> tuple[float, float] | None:
        """Seconds to the last step and to the end of the sweep; ``None`` before the second step."""
        if not self.rate:
            return None
        steps = self.num_steps - self._step
        return steps / self.rate, (steps + self.num_later) / self.rate


class _Lines(Progress):
    """A line at most every LINE_EVERY_S seconds: step, rate, time left, losses."""

    def __init__(self, lead: str, pace: _Pace) -> None:
        self._lead, self._pace = lead, pace
        self._said = time.monotonic()

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        self._pace.update(step)
        left = self._pace.left
        if losses is None or left is None or time.monotonic() - self._said < LINE_EVERY_S:
            return
        self._said = time.monotonic()
        of_sweep = f", sweep {duration(left[1])}" if self._pace.num_later else ""
        log.info(
            "%sstep %d/%d  %.0f steps/s  %.0f s left%s%s",
            self._lead,
            step,
            self._pace.num_steps,
            self._pace.rate,
            left[0],
            of_sweep,
            f"  {reported}" if (reported := _losses_text(losses)) else "",
        )


class _Bar(Progress):
    """A rich progress bar with rate, time left and, if there is room, the losses.

    In a sweep the bar disappears when its group ends.
    """

    def __init__(self, title: str, pace: _Pace, *, transient: bool) -> None:
        from rich.progress import Progress as RichProgress

        self._pace = pace
        self._bar = RichProgress(*_columns(), transient=transient)
        self._task = self._bar.add_task(
            title, total=pace.num_steps, completed=pace.start, rate=0.0, left="", losses=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        self._pace.update(step)
        fields: dict[str, Any] = {} if losses is None else {"losses": _losses_text(losses)}
        if (left := self._pace.left) is not None:
            of_sweep = f", sweep {clock(left[1])}" if self._pace.num_later else ""
            fields["left"] = f"{clock(left[0])} left{of_sweep}"
        self._bar.update(self._task, completed=step, rate=self._pace.rate, **fields)


def _columns() -> list[ProgressColumn]:
    """Return the columns of a bar; a narrow terminal cuts only the losses."""
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Losses(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["losses"], no_wrap=True, overflow="ellipsis")

    title = Column(no_wrap=True, max_width=LONGEST_TITLE, overflow="ellipsis")
    return [
        TextColumn("{task.description}", markup=False, table_column=title),
        BarColumn(BAR_WIDTH, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TextColumn("{task.fields[left]}"),
        Losses(),
    ]


def _losses_text(losses: Mapping[str, float]) -> str:
    """Return the losses that steps reported; the others are NaN, as during random actions."""
    reported = {name.removesuffix("_loss"): x for name, x in losses.items() if not isnan(x)}
    return "  ".join(f"{name} {value:.3g}" for name, value in reported.items())
