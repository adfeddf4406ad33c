"""Tables for papers, in Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from bcq_exp.analysis import statistics
from bcq_exp.analysis.statistics import Estimate
from bcq_exp.analysis.summary import HINDSIGHT, ComparedRuns
from bcq_exp.config.naming import short_names
from bcq_exp.formatting import decimals

Form = Literal["md", "tex"]
Show = Literal["mean", "iqm"]


IN_TEX = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def digits(value: float, places: int = 1) -> str:
    """Format a number with so many decimals below 1000, without decimals above."""
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{places}f}"


def mean_and_std(mean: float, std: float, places: int, plus: str = " ± ") -> str:
    """Format a mean with the standard deviation, which is NaN for one run: then the mean alone."""
    spread = "" if math.isnan(std) else f"{plus}{digits(std, places)}"
    return f"{digits(mean, places)}{spread}"


def with_interval(found: Estimate, places: int) -> str:
    """Format ``value [low, high]``; the value alone where there is no interval."""
    value, low, high = (digits(x, places) for x in found)
    return value if math.isnan(found.low) else f"{value} [{low}, {high}]"


def paper_table(found: ComparedRuns, form: Form, show: Show = "mean") -> str:
    """One row per group: a column per key, the number of evaluated runs, a column per data set.

    Results are mean ± std, or IQM [interval]. The best of a column is bold where its interval lies
    apart from every other's (:func:`standing_apart`).
    """
    tasks = sorted(found.runs.runs["dataset"].unique())
    columns = [
        compared_cells({g: of[task] for g, of in found.scores.items() if task in of}, form, show)
        for task in tasks
    ]
    keys = _values_of_groups(found)
    names = short_names([*keys, "seed"])
    is_best = found.which == "best"
    titles = [f"{task} ({'best ' * is_best}{found.measure})" for task in tasks]
    header = [*(names[key] for key in keys), "runs", *titles]
    rows = [
        [
            *(column[group] for column in keys.values()),
            str(sum(map(len, scores.values()))),
            *(cells.get(group, "") for cells in columns),
        ]
        for group, scores in found.scores.items()
    ]
    what = "Mean ± standard deviation over runs" if show == "mean" else "IQM [interval]"
    if is_best:
        what = f"{HINDSIGHT[0].upper()}{HINDSIGHT[1:]}. {what}"
    aligns = "".join("r" if _are_numbers(column.values()) else "l" for column in keys.values())
    return captioned(header, rows, form, what, f"{aligns}r")


def aggregate_csv(found: ComparedRuns) -> str:
    """One row of numbers per group, the best IQM first.

    The columns are the keys that differ, ``measure``, ``runs``, each estimate of
    :data:`bcq_exp.analysis.summary.ESTIMATED` with ``_low`` and ``_high``, the ends of its
    interval (empty where there is none), and ``std``.
    """
    measure = f"{found.which} {found.measure}"
    keys = _values_of_groups(found, exactly=True)
    estimates = list(found.aggregates[0].estimates) if found.aggregates else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in estimates for end in ("", "_low", "_high")]
    writer.writerow([*keys, "measure", "runs", *ends, "std"])
    for a in found.aggregates:
        numbers = [*(x for name in estimates for x in a.estimates[name]), a.std]
        known = ["" if math.isnan(x) else x for x in map(float, numbers)]
        values = (column[a.group] for column in keys.values())
        writer.writerow([*values, measure, a.num_runs, *known])
    return text.getvalue()


def _values_of_groups(found: ComparedRuns, *, exactly: bool = False) -> dict[str, dict[str, str]]:
    """Return each group's value by key; empty where the group lacks the key.

    If no key differs, there is one column with the groups' labels.
    """
    runs, labels = found.runs, list(found.labels)
    if not runs.keys:
        return {"group": {group: group for group in found.scores}}
    first = {group: labels.index(group) for group in found.scores}
    columns = {key: runs.values(key, exactly=exactly) for key in runs.keys}
    return {key: {g: column[i] or "" for g, i in first.items()} for key, column in columns.items()}


def _are_numbers(texts: Iterable[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts if text)
    except ValueError:
        return False


def standing_apart(found: Mapping[str, Estimate], num_runs: Mapping[str, int]) -> str | None:
    """Return the group whose interval lies above every other's, if there is one.

    The result is None if a group has fewer than FEWEST_TO_WIN runs.
    """
    if len(found) < 2 or min(num_runs.values()) < statistics.FEWEST_TO_WIN:
        return None
    best = max(found, key=lambda group: found[group].value)
    apart = all(e.high < found[best].low for group, e in found.items() if group != best)
    return best if apart else None


def compared_cells(
    results: Mapping[str, np.ndarray], form: Form, show: Show = "mean"
) -> dict[str, str]:
    """Format the results of groups (N,) on one task; the one that stands apart is bold."""
    statistic = statistics.mean if show == "mean" else statistics.iqm
    found = {group: statistics.estimate({"": x}, statistic) for group, x in results.items()}
    best = standing_apart(found, {group: len(x) for group, x in results.items()})
    places = decimals(x for own in results.values() for x in own)
    return {
        group: _cell(x, found[group], places, form, show, bold=group == best)
        for group, x in results.items()
    }


def _cell(
    x: np.ndarray, found: Estimate, places: int, form: Form, show: Show, *, bold: bool
) -> str:
    """Format the result of a group's runs (N,)."""
    if show == "mean":
        std = float(x.std(ddof=1)) if len(x) > 1 else math.nan
        text = mean_and_std(found.value, std, places, " ± " if form == "md" else r" \pm ")
    else:
        text = with_interval(found, places)
    if form == "md":
        return f"**{text}**" if bold else text
    return rf"$\mathbf{{{text}}}$" if bold else f"${text}$"


def captioned(
    header: list[str], rows: list[list[str]], form: Form, what: str, aligns: str = "lr"
) -> str:
    """Add an explanation of cells, bold print and intervals below a table.

    Args:
        aligns: l or r for each of the first columns, which are plain text; the others are results.
    """
    caption = (
        f"{what}. Bold: the interval lies above every other's, and each has "
        f"{statistics.FEWEST_TO_WIN} runs or more. {statistics.INTERVALS}"
    )
    if form == "md":
        return f"{markdown(header, rows, aligns)}\n{caption}\n"
    return f"{latex(header, rows, aligns)}% {caption}\n"


def markdown(header: list[str], rows: list[list[str]], aligns: str) -> str:
    """Format a Markdown table; columns beyond ``aligns`` are numbers."""
    rules = ["---" if align == "l" else "---:" for align in aligns.ljust(len(header), "r")]
    return (
        "\n".join(
            f"| {' | '.join(cell.replace('|', '/') for cell in line)} |"
            for line in [header, rules, *rows]
        )
        + "\n"
    )


def latex(header: list[str], rows: list[list[str]], aligns: str) -> str:
    """Format a table for booktabs; columns of ``aligns`` are text, the others LaTeX."""

    def escaped(text: str) -> str:
        return "".join(f"\\{c}" if c in "_%&#${}" else IN_TEX.get(c, c) for c in text)

    num_texts = len(aligns)
    lines = [
        rf"\begin{{tabular}}{{{aligns.ljust(len(header), 'c')}}}",
        r"\toprule",
        " & ".join(map(escaped, header)) + r" \\",
        r"\midrule",
        *(" & ".join([*map(escaped, row[:num_texts]), *row[num_texts:]]) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
