"""``bcq_exp status multirun/NAME``: progress of a sweep, live."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bcq_exp.cli import tables
from bcq_exp.cli.arguments import Parser, path, seconds
from bcq_exp.cli.command import command
from bcq_exp.config.naming import short_names, swept_values
from bcq_exp.formatting import and_more, clock, counted, numbers
from bcq_exp.sweep.state import RunState, run_states

if TYPE_CHECKING:
    from rich.console import Group

COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "blue",
    "interrupted": "yellow",
    "damaged": "red",
    "missing": "dim",
}
# in a table that is cut, runs of the first statuses are kept
RELEVANCE = ("running", "failed", "damaged", "interrupted", "stopped", "missing", "done")
NARROWEST_REASON = 30  # characters of a column; with less room, reasons follow below the table
MOST_REASONS = 10  # below the table
LINES_AROUND = 5  # of a live table: the title, the header, the runs and keys not shown


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; on a terminal, until no run is running."""
    parser = Parser("bcq_exp status", description="Shows the progress of a sweep, live.")
    parser.add_argument("folder", type=path, help="a sweep's folder, such as multirun/NAME")
    parser.add_argument("--once", action="store_true", help="print the table and exit")
    parser.add_argument(
        "--every", type=seconds, default=2.0, metavar="S", help="seconds between updates (2)"
    )
    options = parser.parse_args(arguments)
    _show(options.folder, options.every, live=sys.stdout.isatty() and not options.once)


def _show(folder: Path, every: float, *, live: bool) -> None:
    from rich.live import Live

    states = run_states(folder)
    console = tables.console()
    try:
        if live and _is_running(states):
            with Live(console=console, auto_refresh=False, transient=True) as shown:
                while _is_running(states):
                    most = max(1, console.height - LINES_AROUND)
                    table = progress_table(folder, states, console.width, most)
                    shown.update(table, refresh=True)
                    time.sleep(every)
                    states = run_states(folder)
    finally:  # after Ctrl-C too
        console.print(progress_table(folder, states, console.width))


def _is_running(states: Sequence[RunState]) -> bool:
    return any(state.status == "running" for state in states)


@dataclass(frozen=True)
class _Column:
    """A column of the table: its header, a cell for each run, and their alignment."""

    header: str
    cells: Sequence[str]
    justify: str = "right"

    @property
    def width(self) -> int:
        return max(len(line) for line in [*self.header.split("\n"), *self.cells])


def progress_table(
    folder: Path, states: Sequence[RunState], width: int, most: int | None = None
) -> Group:
    """The table of a sweep, as wide as ``width`` characters at most.

    Status, step and return are always shown, then as many swept keys as there is room for.

    Args:
        most: the number of runs to show; ``None`` shows all.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    num_of: Counter[str] = Counter(state.status for state in states)
    words = ", ".join(f"{num_of[status]} {status}" for status in COLOURS if num_of[status])
    title = Text(f"{folder}: {counted(len(states), 'run')}: {words}")
    rows = _most_relevant(states, most)
    own = [_Column("status", [state.status for state in rows], "left"), *_progress(rows)]
    room = width - sum(column.width + 2 for column in own)
    keys = _keys(rows, room)
    shown = _fitting(keys, room)
    room -= sum(column.width + 2 for column in shown)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in [*shown, *own]:
        table.add_column(column.header, justify=column.justify, no_wrap=True, vertical="top")  # type: ignore[arg-type]
    reasons = any(state.reason for state in rows)
    if beside := reasons and room >= NARROWEST_REASON:
        table.add_column("reason", overflow="fold")
    for i, state in enumerate(rows):
        cells = [Text(column.cells[i]) for column in [*shown, *own]]
        cells[len(shown)].stylize(COLOURS[state.status])
        table.add_row(*cells, *[Text(state.reason or "")] * beside)
    below = [] if beside else list(_reasons(rows))
    if len(rows) < len(states):
        below.append(and_more(len(states) - len(rows)))
    if hidden := [column.header.replace("\n", "") for column in keys[len(shown) :]]:
        below.append(f"hidden in this narrow terminal: {', '.join(hidden)}")
    return Group(title, table, *map(Text, below))


def _most_relevant(states: Sequence[RunState], most: int | None) -> Sequence[RunState]:
    """Select at most ``most`` runs in their order; running ones first, complete ones last."""
    if most is None or len(states) <= most:
        return states
    ranked = sorted(range(len(states)), key=lambda i: RELEVANCE.index(states[i].status))
    return [states[i] for i in sorted(ranked[:most])]


def _progress(states: Sequence[RunState]) -> Iterator[_Column]:
    """Columns of steps, the time left of running runs, the last return and estimate."""
    steps = [f"{s.step}/{s.num_steps}" if s.num_steps else "" for s in states]
    yield _Column("step", steps)
    left = ["" if s.seconds_left is None else clock(s.seconds_left) for s in states]
    if any(left):
        yield _Column("left", left)
    returns = numbers(*(s.last_return for s in states))
    estimates = numbers(*(s.estimate for s in states))
    if any(returns) or not any(estimates):
        yield _Column("return", returns)
    if any(estimates):
        yield _Column("estimate", estimates)


def _keys(states: Sequence[RunState], room: int) -> list[_Column]:
    """Columns of the swept keys; one column of names if the runs' names have no keys."""
    values = [swept_values(state.name) for state in states]
    if not all(values):
        names = [state.name for state in states]
        cut = [name if len(name) <= room - 2 else f"{name[: room - 3]}…" for name in names]
        return [_Column("run", cut, "left")]
    names_of = short_names(dict.fromkeys(key for of_run in values for key in of_run))
    columns = []
    for key, name in names_of.items():
        cells = [of_run.get(key, "") for of_run in values]
        columns.append(_Column(_folded(name, max(map(len, cells))), cells))
    return columns


def _folded(name: str, width: int) -> str:
    """Break a key's name into lines of ``width`` characters, between words."""
    lines = [""]
    for word in name.replace("_", "_\0").replace(".", ".\0").replace("@", "@\0").split("\0"):
        if lines[-1] and len(lines[-1] + word) > max(width, 4):
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _fitting(columns: Sequence[_Column], room: int) -> list[_Column]:
    """Return the first columns that fit in ``room`` characters."""
    fitting = []
    for column in columns:
        room -= column.width + 2
        if room < 0:
            break
        fitting.append(column)
    return fitting


def _reasons(states: Sequence[RunState]) -> Iterator[str]:
    """One line for each failed or damaged run, with the reason."""
    failed = [s for s in states if s.reason and s.status in ("failed", "damaged")]
    for state in failed[:MOST_REASONS]:
        yield f"{state.status}: {state.name}: {state.reason}"
    if len(failed) > MOST_REASONS:
        yield and_more(len(failed) - MOST_REASONS)


if __name__ == "__main__":
    main()
