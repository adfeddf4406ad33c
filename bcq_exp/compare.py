"""``bcq_exp compare multirun/NAME``: compare runs on a page and in a table."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bcq_exp import locks
from bcq_exp.cli import tables
from bcq_exp.cli.arguments import Parser, home, path, place, seconds
from bcq_exp.cli.command import command
from bcq_exp.errors import UserError
from bcq_exp.extras import require
from bcq_exp.formatting import counted, decimals, listed, numbers
from bcq_exp.training.folders import LOCK, is_sweep

if TYPE_CHECKING:
    from bcq_exp.analysis.runs import RunTables
    from bcq_exp.analysis.summary import ComparedRuns


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and print the table."""
    parser = Parser("bcq_exp compare", description="Compares runs: a table and a report page.")
    parser.add_argument("runs", nargs="+", type=place, help="folders of runs or sweeps, or globs")
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="folder of the page (for one run or sweep its report/, else report/ here)",
    )
    parser.add_argument(
        "--which",
        choices=("last", "best"),
        default="last",
        help="the evaluation of each run that is compared (last)",
    )
    parser.add_argument(
        "--figures", type=path, metavar="DIR", help="write figures (SVG, PDF) and tables (tex, csv)"
    )
    parser.add_argument("--format", choices=("md", "tex"), help="print a Markdown or LaTeX table")
    parser.add_argument(
        "--show", choices=("mean", "iqm"), help="this table's cells: mean ± std or IQM [CI] (mean)"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=10.0,
        metavar="S",
        help="update the page every S seconds while runs are running (true: 10)",
    )
    options = parser.parse_args(arguments)
    if options.show is not None and options.format is None and options.figures is None:
        raise UserError(f"show={options.show}: needs format=md, format=tex or figures=DIR")
    if options.figures is not None:
        require("matplotlib", "paper", "figures=")
    _compare(options)


def _compare(options: argparse.Namespace) -> None:
    from bcq_exp.analysis.report import write_report
    from bcq_exp.analysis.runs import load_runs
    from bcq_exp.analysis.summary import ComparedRuns
    from bcq_exp.analysis.tables import paper_table

    page = (options.output or home(options.runs) / "report") / "index.html"
    while True:
        runs = load_runs(*options.runs)
        notes = (*_missing(options.runs), *runs.notes)
        found = ComparedRuns(replace(runs, notes=notes), options.which)
        selection = _selection(options.runs, found.runs)
        underway = options.watch is not None and _is_underway(options.runs, runs)
        refresh = options.watch if underway else None
        with _refused(f"output={page.parent}"):
            write_report(found, page, refresh, selection=selection)
        if options.figures is not None:
            from bcq_exp.analysis.figures import write_figures

            with _refused(f"figures={options.figures}"):
                write_figures(found, options.figures, options.show or "mean")
        to = sys.stderr if options.format else sys.stdout
        if options.format is None and found.aggregates:
            _print_returns(found)
        elif options.format is None:
            _print_estimates(found.runs, selection, options.runs)
        _print_notes(found, to)
        if options.format is not None:
            print(paper_table(found, options.format, options.show or "mean"), end="")
        if options.figures is not None:
            print(f"figures: {options.figures.resolve()}", file=to)
        print(f"report: {page.resolve()}", file=to, flush=True)
        if not underway:
            return
        time.sleep(options.watch)


def _is_underway(places: Sequence[str], runs: RunTables) -> bool:
    """Whether a run is running, or a sweep that may be between two groups of runs."""
    are_held = (locks.is_held(Path(place) / LOCK) for place in places)
    return bool((runs.runs["status"] == "running").any()) or any(are_held)


@contextmanager
def _refused(key: str) -> Iterator[None]:
    """Name the key whose folder cannot be written.

    Raises:
        UserError: if the system refuses a write inside the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}: {error.strerror or error}") from error


def _missing(places: Sequence[str]) -> Iterator[str]:
    """Describe the runs of sweeps, given as a whole, that have not begun."""
    from bcq_exp.analysis.run_folders import run_folders
    from bcq_exp.sweep import state

    for sweep in map(Path, places):
        expected = state.expected(sweep) if is_sweep(sweep) else []
        folders = run_folders(sweep) if expected else ()
        there = {str(folder.relative_to(sweep)) for folder in folders}
        if missing := [name for name in expected if name not in there]:
            have = "has" if len(missing) == 1 else "have"
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield (
                f"{len(missing)} of {counted(len(expected), 'run')} of {sweep} {have} not begun "
                f"({missing[0]}{more}): groups may lack runs, or be missing"
            )


def _selection(places: Sequence[str], runs: RunTables) -> dict[str, Any] | None:
    """Return the results of ``bcq_exp select``, if a single sweep is compared."""
    from bcq_exp.selection.selection_files import read

    found = read(Path(places[0])) if len(places) == 1 else None
    if found is None:
        return None
    name = _naming(runs, places[0])
    judged = {name(each["folder"]): each["step"] for each in found["policies"]}
    there = runs.runs[runs.runs["step"] > 0].set_index("folder")
    now = {name(str(folder)): step for folder, step in there["step"].items()}
    for folder in there.index[there["status"] == "failed"]:  # after its checkpoint, which is judged
        now.pop(name(folder))
        judged.pop(name(folder), None)
    if judged == now:
        return found
    old = f"estimates are older than the runs; `bcq_exp select {places[0]}` updates them"
    return {**found, "notes": [*found["notes"], old]}


def _naming(runs: RunTables, sweep: str) -> Callable[[str], str]:
    """Return what names a run by its path in the sweep, which may have been moved."""
    depth = max(len(Path(folder).relative_to(sweep).parts) for folder in runs.runs["folder"])
    return lambda folder: "/".join(Path(folder).parts[-max(1, depth) :])


def _print_notes(found: ComparedRuns, file: TextIO) -> None:
    """Print notes on the runs, then warnings about single ones."""
    console, names = tables.console(file), found.runs.runs["name"]
    for note in found.notes:
        console.print(f"note: {note}")
    kinds: dict[tuple[str, str], list[str]] = {}
    for f in found.findings:
        kinds.setdefault((f.severity, f.kind), []).append(f"{names[f.run]}: {f.detail}")
    for (severity, kind), details in kinds.items():
        more = f" (and {counted(len(details) - 1, 'more run')})" if len(details) > 1 else ""
        console.print(f"{severity}: {kind}: {details[0]}{more}")


def _print_returns(found: ComparedRuns) -> None:
    """Print the returns of evaluations by group."""
    from bcq_exp.analysis.statistics import INTERVALS
    from bcq_exp.analysis.tables import digits, mean_and_std, with_interval

    console, runs = tables.console(), found.runs
    title = f"{counted(len(runs.runs), 'run')}: {found.which} {found.measure}"
    table = tables.table(title, "group", ("runs", "IQM [95% CI]", "mean ± std", "median"))
    places = decimals(found.values)
    for a in found.aggregates:
        table.add_row(
            a.group,
            str(a.num_runs),
            with_interval(a.estimates["iqm"], places),
            mean_and_std(a.estimates["mean"].value, a.std, places),
            digits(a.estimates["median"].value, places),
        )
    console.print(table)
    known = runs.runs[["dataset", "behaviour_return"]].assign(group=found.labels).dropna()
    for task, of_task in known.drop_duplicates().groupby("dataset", sort=False):
        for _, own in of_task.groupby("behaviour_return", sort=False)["group"]:
            # groups may have other episodes of one data set, whose behaviour differs
            of = f" ({listed(list(own))})" if len(own) < len(of_task) else ""
            (mean,) = numbers(runs.runs["behaviour_return"][own.index[0]])
            score = found.behaviour_scores[own.index[0]]
            scaled = f" (normalized {score:.1f})" if score == score else ""
            num_cut = runs.runs["cut_episodes"][own.index[0]]
            cut = f"; {counted(num_cut, 'episode')} cut short" if num_cut else ""
            console.print(f"behaviour's return on {task}{of}: {mean}{scaled}{cut}")
    print(INTERVALS)


def _print_estimates(
    runs: RunTables, selection: Mapping[str, Any] | None, folders: Sequence[str]
) -> None:
    """Print values by fitted Q evaluation, if no run has an evaluation."""
    import pandas as pd

    from bcq_exp.analysis.tables import digits, mean_and_std

    console = tables.console()
    values = pd.Series(_estimated(runs, selection, folders), dtype=float).dropna()
    count = counted(len(runs.runs), "run")
    if values.empty:
        select = f"bcq_exp select {shlex.join(folders)}"
        console.print(f"{count}, none evaluated; `{select}` estimates values from data")
        return
    console.print(f"{count}, none evaluated: value by fitted Q evaluation")
    table = tables.table(None, "group", ("runs", "mean ± std", "best"))
    places = decimals(values)
    of_groups = values.groupby(runs.groups().loc[values.index])
    for group, of_group in sorted(of_groups, key=lambda each: -each[1].mean()):
        spread = mean_and_std(of_group.mean(), of_group.std(), places)
        table.add_row(str(group), str(len(of_group)), spread, digits(of_group.max(), places))
    console.print(table)
    if selection is not None and (value := selection["behaviour"].get("fqe")) is not None:
        console.print(f"behaviour policy, estimated in the same way: {numbers(value)[0]}")


def _estimated(
    runs: RunTables, selection: Mapping[str, Any] | None, places: Sequence[str]
) -> dict[Any, float | None]:
    """Return the last estimate of each run that has one, by index.

    Those with another discount or horizon than those of most runs are left out.
    """
    from bcq_exp.config.fqe_settings import value_key
    from bcq_exp.training.record import RunRecord

    if selection is not None:
        name = _naming(runs, places[0])
        of_name = {name(each["folder"]): each["fqe"] for each in selection["policies"]}
        return {i: of_name.get(name(folder)) for i, folder in runs.runs["folder"].items()}
    rows = {i: RunRecord(Path(f)).estimates() for i, f in runs.runs["folder"].items()}
    last = {i: {value_key(row["settings"]): row["fqe"] for row in rows[i]} for i in rows}
    counts = Counter(key for of_run in last.values() for key in of_run)
    common = max(counts, key=counts.__getitem__, default=None)
    return {i: of_run[common] for i, of_run in last.items() if common in of_run}


if __name__ == "__main__":
    main()
