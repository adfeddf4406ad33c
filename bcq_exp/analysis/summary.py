"""The numbers of a comparison: aggregates by group, pairs, profiles, marginals, importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from bcq_exp.analysis import statistics
from bcq_exp.analysis.runs import RunTables, told_apart
from bcq_exp.analysis.statistics import Estimate, Scores
from bcq_exp.formatting import counted

DRAWN_AT_MOST = 10  # groups in a figure of lines or pairs; of more it shows the BEST_FEW
BEST_FEW = 8
ABSENT = "–"  # the value of a key that a run's algorithm lacks
ESTIMATED: dict[str, statistics.Statistic] = {
    "iqm": statistics.iqm,
    "mean": statistics.mean,
    "median": statistics.median,
    "optimality_gap": statistics.optimality_gap,
}


@dataclass(frozen=True)
class Aggregate:
    """The statistics of a group of runs; ``estimates`` has those of ESTIMATED by name."""

    group: str
    num_runs: int
    std: float
    estimates: dict[str, Estimate]


def measure_of(runs: RunTables, which: str = "last") -> tuple[str, pd.Series]:
    """Return the compared measure: normalized score where all have one, else mean return (N,).

    With several data sets, those without a score are left out (NaN) if others have one.
    """
    scores = pd.to_numeric(runs.runs[f"{which}_score"])
    returns = pd.to_numeric(runs.runs[f"{which}_return"])
    all_have = (scores.notna() | returns.isna()).all()
    if scores.notna().any() and (all_have or runs.runs["dataset"].nunique() > 1):
        return "normalized score", scores
    return "return", returns


def behaviour_scores(runs: RunTables) -> pd.Series:
    """The behaviour's normalized score in each run (N,); NaN where it is unknown.

    A score is linear in the return, so two evaluations on a data set determine it.
    """
    task = runs.runs["dataset"]
    found = pd.Series(np.nan, index=runs.runs.index)
    if "normalized_score" not in runs.evaluations:
        return found
    known = runs.evaluations[["run", "return_mean", "normalized_score"]].astype(float).dropna()
    for name, rows in known.groupby(known["run"].map(task)):
        returns, scores = rows["return_mean"].to_numpy(), rows["normalized_score"].to_numpy()
        low, high = returns.argmin(), returns.argmax()
        if returns[low] < returns[high]:
            slope = (scores[high] - scores[low]) / (returns[high] - returns[low])
            mine = task == name
            behaviour = pd.to_numeric(runs.runs.loc[mine, "behaviour_return"])
            found[mine] = scores[low] + slope * (behaviour - returns[low])
    return found


def scores_by_task(runs: RunTables, values: pd.Series, members: pd.Index) -> Scores:
    """The members' values by data set; those without an evaluation are left out."""
    known = values.loc[members].dropna()
    tasks = runs.runs.loc[known.index, "dataset"]
    return {str(task): known[tasks == task].to_numpy(float) for task in sorted(tasks.unique())}


def aggregates(runs: RunTables, labels: pd.Series, which: str = "last") -> list[Aggregate]:
    """Return the statistics of every group, the best interquartile mean first.

    The optimality gap is defined for normalized scores only.
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


def best_few(groups: Sequence[str]) -> list[str]:
    """Select the groups in a figure of lines or pairs from all groups, the best first."""
    return list(groups if len(groups) <= DRAWN_AT_MOST else groups[:BEST_FEW])


def few_runs(found: Sequence[Aggregate]) -> list[str]:
    """Notes on the limits of groups of few runs."""
    notes = []
    without = [a for a in found if np.isnan(a.estimates["mean"].low)]
    small = [a for a in found if a not in without and a.num_runs < statistics.FEWEST_TO_WIN]
    for few, what in (
        (
            without,
            f"too few runs for an interval: {statistics.FEWEST} are needed, and 2 on each data set",
        ),
        (small, "3 runs: intervals are wide, and no group of 3 is marked as the best"),
    ):
        if few:
            several = f"{counted(len(few), 'group')} {'has' if len(few) == 1 else 'have'}"
            which = "every group has" if len(few) == len(found) else several
            notes.append(f"{which} {what}")
    return notes


def improvements(
    runs: RunTables, labels: pd.Series, groups: Sequence[str], which: str = "last"
) -> list[list[Estimate | None]]:
    """P(row beats column) for pairs of ``groups``; None where they share no task."""
    _, values = measure_of(runs, which)
    scores = {g: scores_by_task(runs, values, labels.index[labels == g]) for g in groups}

    def pair(x: str, y: str) -> Estimate | None:
        if x == y or not scores[x].keys() & scores[y].keys():
            return None
        return statistics.probability_of_improvement(scores[x], scores[y])

    return [[pair(x, y) for y in groups] for x in groups]


def marginal(runs: RunTables, key: str, which: str = "last") -> pd.DataFrame:
    """Mean and interval of the runs at each value of one key, averaged over the other keys.

    Columns are value (a string), num_runs, mean, low, high. Numeric values are sorted; more than
    ``statistics.LEVELS_AT_MOST`` are grouped by quarters.
    """
    _, values = measure_of(runs, which)
    column = key_column(runs, key)
    levels = pd.Series(told_apart(list(column)), index=column.index)
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > statistics.LEVELS_AT_MOST:
        edges = quarters(column)
        cut = np.searchsorted(edges[1:-1], column)
        names = [f"{low:.3g} – {high:.3g}" for low, high in pairwise(edges)]
        levels = pd.Series([names[part] for part in cut], index=column.index)
    order = column.groupby(levels).min() if pd.api.types.is_numeric_dtype(column) else None
    rows = []
    for level in sorted(levels.unique(), key=lambda x: x if order is None else order[x]):
        scores = scores_by_task(runs, values, levels.index[levels == level])
        if scores:
            found = statistics.estimate(scores, statistics.mean)
            rows.append((level, sum(map(len, scores.values())), *found))
    return pd.DataFrame(rows, columns=["value", "num_runs", "mean", "low", "high"])


def quarters(column: pd.Series) -> np.ndarray:
    """The edges of a numeric key's quarters, as :func:`statistics.importance` cuts it."""
    return pd.qcut(column, 4, duplicates="drop", retbins=True)[1]


def importances(runs: RunTables, which: str = "last") -> dict[str, float]:
    """Each key's share of the scores' variance, and the seed's (:func:`statistics.importance`)."""
    _, values = measure_of(runs, which)
    keys = [*runs.keys, *(["seed"] if runs.runs["seed"].nunique() > 1 else [])]
    found = {key: statistics.importance(key_column(runs, key), values) for key in keys}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def key_column(runs: RunTables, key: str) -> pd.Series:
    """One key's value in every run: numbers if all are, else text, ABSENT where a run lacks the
    key. A seed is text, because it is not a quantity."""
    column = pd.Series(
        [c.get(key) for c in runs.runs["config"]], index=runs.runs.index, dtype=object
    )
    are_numbers = column.map(lambda x: isinstance(x, int | float) and not isinstance(x, bool)).all()
    if are_numbers and not key.endswith("seed"):
        return column.astype(float)
    written = [ABSENT if value is None else value for value in runs.values(key)]
    return pd.Series(written, index=column.index)
