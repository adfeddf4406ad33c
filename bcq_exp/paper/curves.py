"""The paper's figures: learning curves, and value estimates next to discounted returns."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from bcq_exp.analysis.colours import of_algorithms
from bcq_exp.analysis.figures import STYLE, labels_of, rendered, with_gaps
from bcq_exp.paper.run_tables import Results, shown, task_name

BEHAVIOUR_COLOUR = "#444444"
Panel = Callable[[Any, pd.DataFrame, pd.DataFrame], None]


def drawn(results: Results) -> dict[str, bytes]:
    """Draw every figure in every format, by file name."""
    with rc_context(STYLE):
        return rendered({"curves": curves(results), "values": values(results)})


def curves(results: Results) -> Figure:
    """Return over gradient steps: mean and standard deviation over seeds; behaviour as a line."""

    colours = of_algorithms(results.algorithms)

    def panel(axes: Any, runs: pd.DataFrame, evaluations: pd.DataFrame) -> None:
        axes.axhline(
            runs["behaviour_return"].mean(),
            color=BEHAVIOUR_COLOUR,
            ls="--",
            lw=1,
            label="behaviour",
        )
        for algo in results.algorithms:
            mine = _of(algo, runs, evaluations)
            _draw(axes, mine, "return_mean", colours[algo], shown(algo))

    return _grid(results, panel, "return")


def values(results: Results) -> Figure:
    """The critic's estimate (solid) and the discounted return (dotted), on a symmetric log axis.

    Both are of the first states of evaluation episodes; the distance between the lines is
    extrapolation error.
    """

    colours = of_algorithms(results.algorithms)

    def panel(axes: Any, runs: pd.DataFrame, evaluations: pd.DataFrame) -> None:
        axes.set_yscale("symlog", linthresh=100)
        estimating = evaluations.dropna(subset="value_mean")
        for algo in results.algorithms:
            mine = _of(algo, runs, estimating)
            _draw(axes, mine, "value_mean", colours[algo], f"{shown(algo)}, estimate")
            _draw(axes, mine, "discounted_return_mean", colours[algo], ls=":")
        axes.plot([], color=BEHAVIOUR_COLOUR, lw=1.4, ls=":", label="each one's true value")

    return _grid(results, panel, "value of the first state")


def _of(algo: str, runs: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    return evaluations[evaluations["run"].isin(runs.index[runs["algo"] == algo])]


def _draw(
    axes: Any,
    evaluations: pd.DataFrame,
    column: str,
    colour: str,
    label: str | None = None,
    ls: str = "-",
) -> None:
    if evaluations.empty:
        return
    of_step = evaluations.groupby("step")[column].agg(["mean", "std"]).fillna({"std": 0})
    table = with_gaps(of_step, evaluations, column)
    axes.plot(table.index, table["mean"], color=colour, lw=1.4, ls=ls, label=label)
    ends = table["mean"] - table["std"], table["mean"] + table["std"]
    axes.fill_between(table.index, *ends, color=colour, alpha=0.15, lw=0)


def _grid(results: Results, panel: Panel, unit: str) -> Figure:
    """Make a grid: a row per setting, a column per environment; one row for one environment."""
    num_rows, num_columns = len(results.settings), len(results.envs)
    if num_columns == 1:
        num_rows, num_columns = 1, num_rows
    figure = Figure(figsize=(3.4 * num_columns + 0.6, 2.3 * num_rows + 0.7), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharex="row")
    for axes, task in zip(grid.flat, product(results.settings, results.envs), strict=True):
        runs = results.of_task(*task)
        axes.set_title(task_name(*task), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if not runs.empty:
            panel(axes, runs, results.evaluations)
    for axes in grid[-1]:
        axes.set_xlabel("gradient steps")
    for axes in grid[:, 0]:
        axes.set_ylabel(unit)
    labels = labels_of(grid.flat)
    figure.legend(
        labels.values(),
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 3 * num_columns),
    )
    return figure
