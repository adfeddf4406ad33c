"""The numbers of a comparison: aggregates by group, pairs, profiles, marginals, importance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from bcq_exp.analysis import statistics
from bcq_exp.analysis.findings import Finding, findings
from bcq_exp.analysis.runs import ABSENT, RunTables
from bcq_exp.analysis.statistics import Estimate, Scores
from bcq_exp.data import env_scores
from bcq_exp.formatting import counted, listed, told_apart

DRAWN_AT_MOST = 10  # groups in a figure of lines or pairs; of more it shows the BEST_FEW
BEST_FEW = 8
NAMED_AT_MOST = 4  # groups in a note
HINDSIGHT = (
    "each run's best evaluation is chosen in hindsight: results are higher than a policy that is "
    "chosen beforehand would reach"
)
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


class ComparedRuns:
    """Runs compared by one of their evaluations; each number is computed once.

    Args:
        runs: the N runs.
        which: the evaluation that counts, last or best.

    Attributes:
        labels: the group of each run (N,).
        measure: normalized score where all runs have one, else return.
        values: the measure of each run (N,), NaN where it is not finite. With several data sets,
            those without a score are left out (NaN) if others have one.
        scores: by group, the values of its runs by data set; runs without one are left out.
    """

    def __init__(self, runs: RunTables, which: str = "last") -> None:
        self.runs, self.which, self.labels = runs, which, runs.groups()
        scores = pd.to_numeric(runs.runs[f"{which}_score"])
        returns = pd.to_numeric(runs.runs[f"{which}_return"])
        all_have = (scores.notna() | returns.isna()).all()
        is_scored = scores.notna().any() and (all_have or runs.runs["dataset"].nunique() > 1)
        self.measure = "normalized score" if is_scored else "return"
        values = scores if is_scored else returns
        self.values: pd.Series = values.where(np.isfinite(values))
        self.scores = {
            str(label): self._by_task(self.labels == label) for label in self.labels.unique()
        }

    @cached_property
    def aggregates(self) -> list[Aggregate]:
        """The statistics of every evaluated group, the best interquartile mean first.

        The optimality gap is defined for normalized scores only.
        """
        found = []
        for group, scores in self.scores.items():
            if not scores:
                continue
            joined = np.concatenate(list(scores.values()))
            estimates = {
                key: statistics.estimate(scores, statistic)
                for key, statistic in ESTIMATED.items()
                if key != "optimality_gap" or self.measure == "normalized score"
            }
            std = float(joined.std(ddof=1)) if len(joined) > 1 else float("nan")
            found.append(Aggregate(group, len(joined), std, estimates))
        return sorted(found, key=lambda aggregate: -aggregate.estimates["iqm"].value)

    @cached_property
    def behaviour_scores(self) -> pd.Series:
        """The behaviour's normalized score in each run (N,); NaN where it is unknown."""
        runs = self.runs.runs
        pairs = zip(pd.to_numeric(runs["behaviour_return"]), runs["reference_scores"], strict=True)
        scores = [env_scores.normalized_score(ret, scale) for ret, scale in pairs]
        return pd.Series(scores, index=runs.index, dtype=float)

    @cached_property
    def findings(self) -> list[Finding]:
        """Warnings about single runs."""
        return findings(self.runs)

    @property
    def notes(self) -> list[str]:
        """Notes on the runs, on groups that are not comparable, and on groups of few runs."""
        notes, found = [*self.runs.notes, *self._uneven()], self.aggregates
        if self.which == "best":
            notes.append(HINDSIGHT)
        without = [a for a in found if np.isnan(a.estimates["mean"].low)]
        small = [a for a in found if a not in without and a.num_runs < statistics.FEWEST_TO_WIN]
        for few, what in (
            (
                without,
                f"too few runs for an interval: {statistics.FEWEST} are needed, and 2 on each data "
                "set",
            ),
            (small, "3 runs: intervals are wide, and no group of 3 is marked as the best"),
        ):
            if few:
                several = counted(len(few), "group has", "groups have")
                which = "every group has" if len(few) == len(found) else several
                notes.append(f"{which} {what}")
        return notes

    def _uneven(self) -> Iterator[str]:
        """Describe groups whose runs are on other data sets, or unevenly divided among them."""
        evaluated = [group for group, scores in self.scores.items() if scores]

        def named(groups: Sequence[str]) -> str:
            parts = [
                f"{group}: {listed([f'{len(x)} on {t}' for t, x in self.scores[group].items()])}"
                for group in groups[:NAMED_AT_MOST]
            ]
            return "; ".join([*parts, *["..."] * (len(groups) > NAMED_AT_MOST)])

        if len({frozenset(self.scores[group]) for group in evaluated}) > 1:
            yield (
                f"groups have runs on different data sets ({named(evaluated)}): their aggregates "
                "are not comparable; give runs on the same ones"
            )
        uneven = [g for g in evaluated if len({len(x) for x in self.scores[g].values()}) > 1]
        if uneven:
            yield (
                f"{counted(len(uneven), 'group')} with more runs on one data set than on another "
                f"({named(uneven)}): it weighs more in their aggregates"
            )

    def improvements(self, groups: Sequence[str]) -> list[list[Estimate | None]]:
        """P(row beats column) for pairs of ``groups``; None where they share no task."""

        def pair(x: str, y: str) -> Estimate | None:
            if x == y or not self.scores[x].keys() & self.scores[y].keys():
                return None
            return statistics.probability_of_improvement(self.scores[x], self.scores[y])

        return [[pair(x, y) for y in groups] for x in groups]

    def marginal(self, key: str) -> pd.DataFrame:
        """Mean and interval of the runs at each value of one key, averaged over the other keys.

        Columns are value (a string), num_runs, mean, low, high. Numbers are sorted, after other
        values; more than ``statistics.LEVELS_AT_MOST`` are grouped by quarters.
        """
        column, levels = key_column(self.runs, key), key_texts(self.runs, key)
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > statistics.LEVELS_AT_MOST:
            edges = quarters(column)
            cut = np.searchsorted(edges[1:-1], column)
            texts = [f"{edge:.3g}" for edge in edges]
            if len({*texts}) < len(texts):
                texts = told_apart(edges.tolist())
            names = [f"{low} – {high}" for low, high in pairwise(texts)]
            levels = pd.Series([names[part] for part in cut], index=column.index)
        order = pd.to_numeric(column, errors="coerce").fillna(-np.inf).groupby(levels).min()
        rows = []
        for level in sorted(levels.unique(), key=lambda x: (order[x], x)):
            if scores := self._by_task(levels == level):
                found = statistics.estimate(scores, statistics.mean)
                rows.append((level, sum(map(len, scores.values())), *found))
        return pd.DataFrame(rows, columns=["value", "num_runs", "mean", "low", "high"])

    @cached_property
    def importances(self) -> dict[str, float]:
        """Each key's share of the scores' variance, and the seed's, the largest first
        (:func:`statistics.importance`)."""
        keys = [*self.runs.keys, *(["seed"] if self.runs.runs["seed"].nunique() > 1 else [])]
        columns = {key: key_column(self.runs, key) for key in keys}
        found = {key: statistics.importance(each, self.values) for key, each in columns.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _by_task(self, members: pd.Series) -> Scores:
        known = self.values[members].dropna()
        tasks = self.runs.runs["dataset"]
        return {str(task): own.to_numpy(float) for task, own in known.groupby(tasks)}


def best_few(groups: Sequence[str]) -> list[str]:
    """Select the groups in a figure of lines or pairs from all groups, the best first."""
    return list(groups if len(groups) <= DRAWN_AT_MOST else groups[:BEST_FEW])


def quarters(column: pd.Series) -> np.ndarray:
    """The edges of a numeric key's quarters, as :func:`statistics.importance` cuts it."""
    return pd.qcut(column, 4, duplicates="drop", retbins=True)[1]


def key_column(runs: RunTables, key: str) -> pd.Series:
    """One key's value in every run: numbers if all are, else text, ABSENT where a run lacks the
    key. A seed is text, because it is not a quantity."""
    column = pd.Series(
        [c.get(key) for c in runs.runs["config"]], index=runs.runs.index, dtype=object
    )
    are_numbers = column.map(lambda x: isinstance(x, int | float) and not isinstance(x, bool)).all()
    if are_numbers and not key.endswith("seed"):
        return column.astype(float)
    return key_texts(runs, key)


def key_texts(runs: RunTables, key: str) -> pd.Series:
    """One key's value in every run as text, as in labels of groups."""
    written = [ABSENT if value is None else value for value in runs.values(key)]
    return pd.Series(written, index=runs.runs.index)
