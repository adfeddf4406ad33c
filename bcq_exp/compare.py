"""``python -m bcq_exp.compare multirun/NAME``: runs beside each other, as a page and a table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcq_exp.cli.arguments import Parser, path, place, seconds
from bcq_exp.cli.command import command
from bcq_exp.errors import UserError
from bcq_exp.extras import require

if TYPE_CHECKING:
    from bcq_exp.analysis.runs import RunTables
    from bcq_exp.analysis.tables import Show


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and print the table."""
    parser = Parser("python -m bcq_exp.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=place, help="folders of runs or sweeps, or globs")
    parser.add_argument(
        "--output",
        type=path,
        help="folder of the page (of one run or sweep: report/ in its own; else report/ here)",
    )
    parser.add_argument(
        "--which",
        choices=("last", "best"),
        default="last",
        help="the evaluation that counts (last)",
    )
    parser.add_argument(
        "--figures", type=path, metavar="DIR", help="write figures (SVG, PDF) and tables (tex, csv)"
    )
    parser.add_argument("--format", choices=("md", "tex"), help="also print the paper's table")
    parser.add_argument(
        "--show", choices=("mean", "iqm"), help="in that table: mean ± std, or IQM [CI] (mean)"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=10.0,
        metavar="S",
        help="rewrite every S seconds (10)",
    )
    options = parser.parse_args(arguments)
    if options.show is not None and options.format is None and options.figures is None:
        raise UserError("--show: of --format's table; give --format md or tex")
    if options.figures is not None:
        require("matplotlib", "paper", "--figures")
    _compare(options)


def _compare(options: argparse.Namespace) -> None:
    from bcq_exp.analysis.report import write_report
    from bcq_exp.analysis.runs import load_runs
    from bcq_exp.analysis.tables import paper_table

    page = (options.output or _home(options.runs)) / "index.html"
    while True:
        runs = load_runs(*options.runs)
        underway = options.watch is not None and (runs.runs["status"] == "running").any()
        try:
            write_report(
                runs,
                page,
                options.which,
                options.watch if underway else None,
                selection=_selection(options.runs, runs),
            )
        except OSError as error:
            raise UserError(f"--output {page.parent}: {error.strerror or error}") from error
        if options.figures is not None:
            _draw(runs, options.figures, options.show or "mean", options.which)
        if options.format is None:
            _print(runs, options.which)
        else:
            print(paper_table(runs, options.format, options.show or "mean", options.which), end="")
        to = sys.stderr if options.format else sys.stdout
        if options.figures is not None:
            print(f"figures: {options.figures.resolve()}", file=to)
        print(f"report: {page.resolve()}", file=to, flush=True)
        if not underway:
            return
        time.sleep(options.watch)


def _draw(runs: RunTables, folder: Path, show: Show, which: str) -> None:
    from bcq_exp.analysis.figures import write_figures

    try:
        write_figures(runs, folder, show, which)
    except OSError as error:
        raise UserError(f"--figures {folder}: {error.strerror or error}") from error


def _selection(places: Sequence[str], runs: RunTables) -> dict[str, Any] | None:
    """What ``bcq_exp.select`` left in a sweep's folder, where it is one that is shown."""
    from bcq_exp.selection.results import read

    found = read(Path(places[0])) if len(places) == 1 else None
    if found is None:
        return None
    judged = {(Path(each["folder"]).name, each["step"]) for each in found["policies"]}
    there = runs.runs[runs.runs["step"] > 0]
    now = set(zip((Path(folder).name for folder in there["folder"]), there["step"], strict=True))
    if judged == now:
        return found
    old = f"the runs have changed since: `python -m bcq_exp.select {places[0]}` judges them again"
    return {**found, "notes": [*found["notes"], old]}


def _home(places: Sequence[str]) -> Path:
    """Where the report goes by itself: two comparisons do not overwrite each other's."""
    alone = len(places) == 1 and Path(places[0]).is_dir()
    return Path(places[0] if alone else ".", "report")


def _print(runs: RunTables, which: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from bcq_exp.analysis import statistics, summary
    from bcq_exp.analysis.findings import findings
    from bcq_exp.analysis.tables import digits

    measure, _ = summary.measure_of(runs, which)
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=f"{len(runs.runs)} runs: {which} {measure}", title_justify="left")
    table.add_column("group", overflow="fold")
    for name in ("runs", "IQM [95% CI]", "mean ± std", "median"):
        table.add_column(name, justify="right", no_wrap=True)
    found = summary.aggregates(runs, runs.groups(), which)
    for a in found:
        iqm = a.estimates["iqm"]
        interval = "" if iqm.low != iqm.low else f" [{digits(iqm.low)}, {digits(iqm.high)}]"
        table.add_row(
            escape(a.group),
            str(a.num_runs),
            digits(iqm.value) + escape(interval),
            f"{digits(a.estimates['mean'].value)} ± {digits(a.std)}",
            digits(a.estimates["median"].value),
        )
    console.print(table)
    behaviours = runs.runs[["dataset", "behaviour_return"]].dropna().drop_duplicates()
    for task, value in behaviours.itertuples(index=False):
        console.print(f"behaviour's return on {task}: {value:.1f}", markup=False, highlight=False)
    for note in [*runs.notes, *summary.few_runs(found)]:
        console.print(f"note: {note}", markup=False, highlight=False)
    print(statistics.INTERVALS)
    kinds: dict[tuple[str, str], list[str]] = {}
    for f in findings(runs):
        kinds.setdefault((f.severity, f.kind), []).append(f"{runs.runs['name'][f.run]}: {f.detail}")
    for (severity, kind), details in kinds.items():
        more = f" (and {len(details) - 1} more runs)" if len(details) > 1 else ""
        console.print(f"{severity}: {kind}: {details[0]}{more}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
