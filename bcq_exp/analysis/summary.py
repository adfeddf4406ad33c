"""The figures of a comparison: aggregates by group, pairs, profiles, marginals, importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bcq_exp.analysis import statistics
from bcq_exp.analysis.runs import RunTables, told_apart
from bcq_exp.analysis.statistics import Estimate, Scores
from bcq_exp.words import counted

PAIRS_AT_MOST = 12  # groups of which every pair is compared
ESTIMATED: dict[str, statistics.Statistic] = {
    "iqm": statistics.iqm,
    "mean": statistics.mean,
    "median": statistics.median,
    "optimality_gap": statistics.optimality_gap,
}


@dataclass(frozen=True)
class Aggregate:
    """A group of runs in numbers; ``estimates`` by name of ESTIMATED."""

    group: str
    num_runs: int
    std: float
    estimates: dict[str, Estimate]


def measure_of(runs: RunTables, which: str = "last") -> tuple[str, pd.Series]:
    """What runs are compared by: normalized score where all have one, else mean return (N,).

    Of several data sets those without a score are left out (NaN) if others have one.
    """
    scores = pd.to_numeric(runs.runs[f"{which}_score"])
    returns = pd.to_numeric(runs.runs[f"{which}_return"])
    all_have = (scores.notna() | returns.isna()).all()
    if scores.notna().any() and (all_have or runs.runs["dataset"].nunique() > 1):
        return "normalized score", scores
    return "return", returns


def scores_by_task(runs: RunTables, values: pd.Series, members: pd.Index) -> Scores:
    """The members' values by data set; those without an evaluation are left out."""
    known = values.loc[members].dropna()
    tasks = runs.runs.loc[known.index, "dataset"]
    return {str(task): known[tasks == task].to_numpy(float) for task in sorted(tasks.unique())}


def aggregates(runs: RunTables, labels: pd.Series, which: str = "last") -> list[Aggregate]:
    """Every group in numbers, the best interquartile mean first.

    The optimality gap is of normalized scores only: a return has no mark to fall short of.
    """
    name, values = measure_of(runs, which)
    found = []
    for label in labels.unique():
        scores = scores_by_task(runs, values, labels.index[labels == label])
        if not scores:
            continue
        joined = np.concatenate(list(scores.values()))
        estimates = {
            key: statistics.estimate(scores, statistic)
            for key, statistic in ESTIMATED.items()
            if key != "optimality_gap" or name == "normalized score"
        }
        std = float(joined.std(ddof=1)) if len(joined) > 1 else float("nan")
        found.append(Aggregate(str(label), len(joined), std, estimates))
    return sorted(found, key=lambda aggregate: -aggregate.estimates["iqm"].value)


def few_runs(found: Sequence[Aggregate]) -> list[str]:
    """What groups of few runs cannot show, in words."""
    notes = []
    without = [a for a in found if np.isnan(a.estimates["mean"].low)]
    small = [a for a in found if a not in without and a.num_runs < statistics.FEWEST_TO_WIN]
    for few, what in (
        (without, f"too few runs for an interval, which takes {statistics.FEWEST}, and 2 per data"),
        (small, "3 runs: intervals are wide, and none is marked as the best"),
    ):
        if few:
            several = f"{counted(len(few), 'group')} {'has' if len(few) == 1 else 'have'}"
            which = "every group has" if len(few) == len(found) else several
            notes.append(f"{which} {what}")
    return notes


def improvements(
    runs: RunTables, labels: pd.Series, order: Sequence[str], which: str = "last"
) -> tuple[list[str], list[list[Estimate | None]]]:
    """P(row beats column) of the first PAIRS_AT_MOST of ``order``; None where no task is shared."""
    _, values = measure_of(runs, which)
    groups = list(order)[:PAIRS_AT_MOST]
    scores = {g: scores_by_task(runs, values, labels.index[labels == g]) for g in groups}

    def pair(x: str, y: str) -> Estimate | None:
        if x == y or not scores[x].keys() & scores[y].keys():
            return None
        return statistics.probability_of_improvement(scores[x], scores[y])

    return groups, [[pair(x, y) for y in groups] for x in groups]


def marginal(runs: RunTables, key: str, which: str = "last") -> pd.DataFrame:
    """Mean and interval of the runs at each value of one key, the others as they come.

    Columns value (a string), num_runs, mean, low, high; numeric values in order, and those of more
    than ``statistics.LEVELS_AT_MOST`` by quarters.
    """
    _, values = measure_of(runs, which)
    column = key_column(runs, key)
    levels = pd.Series(told_apart(list(column)), index=column.index)
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > statistics.LEVELS_AT_MOST:
        cut = pd.qcut(column, 4, duplicates="drop")
        levels = cut.map(lambda i: f"{i.left:.3g} – {i.right:.3g}").astype(str)
    order = column.groupby(levels).min() if pd.api.types.is_numeric_dtype(column) else None
    rows = []
    for level in sorted(levels.unique(), key=lambda x: x if order is None else order[x]):
        scores = scores_by_task(runs, values, levels.index[levels == level])
        if scores:
            found = statistics.estimate(scores, statistics.mean)
            rows.append((level, sum(map(len, scores.values())), *found))
    return pd.DataFrame(rows, columns=["value", "num_runs", "mean", "low", "high"])


def importances(runs: RunTables, which: str = "last") -> dict[str, float]:
    """Each key's share of the scores' variance, and the seed's (:func:`statistics.importance`)."""
    _, values = measure_of(runs, which)
    keys = [*runs.keys, *(["seed"] if runs.runs["seed"].nunique() > 1 else [])]
    found = {key: statistics.importance(key_column(runs, key), values) for key in keys}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def key_column(runs: RunTables, key: str) -> pd.Series:
    """One key's value in every run: numbers where all are, else as written; so is a seed, which is
    a name and no quantity."""
    column = pd.Series(
        [c.get(key) for c in runs.runs["config"]], index=runs.runs.index, dtype=object
    )
    are_numbers = column.map(lambda x: isinstance(x, int | float) and not isinstance(x, bool)).all()
    if are_numbers and not key.endswith("seed"):
        return column.astype(float)
    return pd.Series(told_apart(list(column)), index=column.index)
