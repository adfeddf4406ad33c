"""``python -m bcq_exp.status multirun/NAME``: how far a sweep is, live."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcq_exp.cli.arguments import Parser, path, seconds
from bcq_exp.cli.command import command
from bcq_exp.sweep.state import RunState, run_states

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "blue",
    "interrupted": "yellow",
    "damaged": "red",
    "missing": "dim",
}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; on a terminal, until no run is running."""
    parser = Parser("python -m bcq_exp.status", description=__doc__)
    parser.add_argument("folder", type=path, help="a sweep's folder, such as multirun/NAME")
    parser.add_argument("--once", action="store_true", help="print the table and end")
    parser.add_argument("--every", type=seconds, default=2.0, help="seconds between looks (2)")
    options = parser.parse_args(arguments)
    _show(options.folder, options.every, live=sys.stdout.isatty() and not options.once)


def _show(folder: Path, every: float, *, live: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    states = run_states(folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not live:
        console.print(_table(folder, states))
        return
    with Live(_table(folder, states), console=console, auto_refresh=False) as shown:
        while any(state.status == "running" for state in states):
            time.sleep(every)
            states = run_states(folder)
            shown.update(_table(folder, states), refresh=True)


def _table(folder: Path, states: Sequence[RunState]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    counts: Counter[str] = Counter(state.status for state in states)
    words = ", ".join(f"{counts[status]} {status}" for status in COLOURS if counts[status])
    title = escape(f"{folder}: {len(states)} runs: {words}")
    table = Table(title=title, title_justify="left")
    for name in ("run", "status", "step", "time left", "last return", "reason"):
        right = name in ("step", "time left", "last return")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "reason")
    for state in states:
        table.add_row(
            escape(state.name),
            f"[{COLOURS[state.status]}]{state.status}",
            f"{state.step}/{state.num_steps}" if state.num_steps else "",
            _duration(state.seconds_left),
            "" if state.last_return is None else f"{state.last_return:.1f}",
            escape(state.reason or ""),
        )
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


if __name__ == "__main__":
    main()
