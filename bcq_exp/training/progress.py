"""How a run shows itself while it goes: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Shows the steps taken; used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: Any) -> None: ...

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        """``step`` gradient steps are done; ``losses`` are the latest where they are new."""


def progress(start: int, num_steps: int, title: str) -> Progress:
    """A bar where standard output is a terminal, lines otherwise."""
    return (_Bar if sys.stdout.isatty() else _Lines)(start, num_steps, title)


class _Lines:
    """A line at most every LINE_EVERY_S seconds: step, rate, time left, losses."""

    def __init__(self, start: int, num_steps: int, title: str) -> None:
        self._start, self._num_steps = start, num_steps
        self._began = self._said = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if losses is None or now - self._said < LINE_EVERY_S:
            return
        self._said = now
        rate = (step - self._start) / (now - self._began)
        left = (self._num_steps - step) / rate
        log.info(
            "step %d/%d  %.0f steps/s  %.0f s left  %s",
            step,
            self._num_steps,
            rate,
            left,
            _shown(losses),
        )


class _Bar:
    """A rich progress bar with rate, time left and the last losses."""

    def __init__(self, start: int, num_steps: int, title: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
        )
        self._start, self._began = start, time.monotonic()
        self._task = self._bar.add_task(
            title, total=num_steps, completed=start, rate=0.0, losses=""
        )

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        fields: dict[str, Any] = {} if losses is None else {"losses": _shown(losses)}
        rate = (step - self._start) / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, completed=step, rate=rate, **fields)


def _shown(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name.removesuffix('_loss')} {value:.3g}" for name, value in losses.items())
