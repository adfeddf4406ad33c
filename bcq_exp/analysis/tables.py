"""The paper's table, in the terminal, Markdown or LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from bcq_exp.analysis import statistics, summary
from bcq_exp.analysis.runs import RunTables
from bcq_exp.analysis.statistics import Estimate

Form = Literal["md", "tex"]
Show = Literal["mean", "iqm"]


IN_TEX = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def digits(value: float) -> str:
    """A number with the digits that mean something: one decimal up to 1000, none above."""
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def paper_table(runs: RunTables, form: Form, show: Show = "mean", which: str = "last") -> str:
    """A row a group, a column a data set: mean ± std, or IQM [interval], and how many runs.

    The best of a column is bold where its interval lies apart from every other's
    (:func:`standing_apart`).
    """
    labels = runs.groups()
    name, values = summary.measure_of(runs, which)
    tasks = sorted(runs.runs["dataset"].unique())
    cells: dict[str, dict[str, str]] = {str(label): {} for label in labels.unique()}
    for task in tasks:
        scores = {
            str(label): values[(labels == label) & (runs.runs["dataset"] == task)].dropna()
            for label in labels.unique()
        }
        known = {g: x.to_numpy(float) for g, x in scores.items() if len(x)}
        statistic = statistics.mean if show == "mean" else statistics.iqm
        found = {g: statistics.estimate({task: x}, statistic) for g, x in known.items()}
        best = standing_apart(found, {group: len(x) for group, x in known.items()})
        for group, x in known.items():
            cells[group][task] = cell(x, found[group], form, show, bold=group == best)
    count = labels.value_counts()
    header = ["group", "runs", *(f"{task} ({name})" for task in tasks)]
    rows = [
        [group, str(count[group]), *(of_group.get(task, "") for task in tasks)]
        for group, of_group in cells.items()
    ]
    what = "Mean ± standard deviation over runs" if show == "mean" else "IQM [interval]"
    return captioned(header, rows, form, what)


def standing_apart(found: Mapping[str, Estimate], num_runs: Mapping[str, int]) -> str | None:
    """The group whose interval lies above every other's, if there is one.

    There is none where a group has fewer than FEWEST_TO_WIN runs.
    """
    if len(found) < 2 or min(num_runs.values()) < statistics.FEWEST_TO_WIN:
        return None
    best = max(found, key=lambda group: found[group].value)
    apart = all(e.high < found[best].low for group, e in found.items() if group != best)
    return best if apart else None


def cell(x: np.ndarray, found: Estimate, form: Form, show: Show, *, bold: bool) -> str:
    """A group's runs (N,) in a few words."""
    if show == "mean":
        spread = digits(float(x.std(ddof=1))) if len(x) > 1 else "–"
        plus = " ± " if form == "md" else r" \pm "
        text = f"{digits(found.value)}{plus}{spread}"
    else:
        text = f"{digits(found.value)} [{digits(found.low)}, {digits(found.high)}]"
    if form == "md":
        return f"**{text}**" if bold else text
    text = text.replace("–", r"\text{--}")
    return rf"$\mathbf{{{text}}}$" if bold else f"${text}$"


def captioned(header: list[str], rows: list[list[str]], form: Form, what: str) -> str:
    """A table and, below it, what its cells, its bold one and its intervals are."""
    caption = (
        f"{what}. Bold: the interval lies above every other's, and each has "
        f"{statistics.FEWEST_TO_WIN} runs or more. {statistics.INTERVALS}"
    )
    if form == "md":
        return f"{markdown(header, rows)}\n{caption}\n"
    return f"{latex(header, rows)}% {caption}\n"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose columns after the first are numbers."""
    lines = [header, ["---", "---:", *["---:"] * (len(header) - 2)], *rows]
    return (
        "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        + "\n"
    )


def latex(header: list[str], rows: list[list[str]]) -> str:
    """The same, for booktabs."""

    def escaped(text: str) -> str:
        return "".join(f"\\{c}" if c in "_%&#${}" else IN_TEX.get(c, c) for c in text)

    lines = [
        rf"\begin{{tabular}}{{lr{'c' * (len(header) - 2)}}}",
        r"\toprule",
        " & ".join(map(escaped, header)) + r" \\",
        r"\midrule",
        *(" & ".join([escaped(row[0]), *row[1:]]) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
