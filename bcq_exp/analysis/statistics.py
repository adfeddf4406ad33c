"""Statistics of few runs, after Agarwal et al. 2021 (arXiv:2108.13264, "rliable").

All are of runs, whatever their task: as there where tasks have equally many runs, but for the
median, which there is of the tasks' means (of one task: its mean).

Scores come as one array a task (a data set): ``{task: (N,)}``, a number a run. Intervals are
percentile bootstraps, stratified: each task's runs are drawn anew from that task's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

Scores = Mapping[str, np.ndarray]
Statistic = Callable[[np.ndarray], np.ndarray]  # (..., N) -> (...)

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
LEVELS_AT_MOST = 6  # a numeric key of more values is cut at its quartiles


class Estimate(NamedTuple):
    """A statistic with its interval; ``low`` and ``high`` are NaN where one run says nothing."""

    value: float
    low: float
    high: float


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean (..., N) -> (...): the mean of the middle half (section 4.3)."""
    return trim_mean(scores, 0.25, axis=-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """(..., N) -> (...)."""
    return scores.mean(-1)


def median(scores: np.ndarray) -> np.ndarray:
    """(..., N) -> (...)."""
    return np.median(scores, -1)


def optimality_gap(scores: np.ndarray, gamma: float = 100.0) -> np.ndarray:
    """How far scores fall short of ``gamma``, above it counting nothing (..., N) -> (...).

    Section 4.3, where gamma is 1 on scores in [0, 1]; ours are in percent of an expert.
    """
    return gamma - np.minimum(scores, gamma).mean(-1)


def estimate(scores: Scores, statistic: Statistic, seed: int = 0) -> Estimate:
    """``statistic`` over all tasks' runs with its stratified bootstrap interval.

    An interval wants two runs of a task; with one a task there is none.
    """
    joined = np.concatenate(list(scores.values()))
    value = float(statistic(joined))
    if max(map(len, scores.values())) < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    resamples = np.concatenate([_resampled(x, rng) for x in scores.values()], axis=1)
    return Estimate(value, *_interval(statistic(resamples)))


def probability_of_improvement(x: Scores, y: Scores, seed: int = 0) -> Estimate:
    """P(X > Y): the chance that a run of ``x`` beats one of ``y``, ties half (section 4.3).

    Averaged over the tasks both have (Mann-Whitney's U over N M).

    Raises:
        ValueError: if they share no task.
    """
    tasks = [task for task in x if task in y]
    if not tasks:
        raise ValueError("no task in common")
    value = float(np.mean([_wins(x[t], y[t]) for t in tasks]))
    if max(min(len(x[t]), len(y[t])) for t in tasks) < 2:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = np.mean(
        [_wins(_resampled(x[t], rng, 500), _resampled(y[t], rng, 500)) for t in tasks], axis=0
    )
    return Estimate(value, *_interval(drawn))


def performance_profile(
    scores: Scores, thresholds: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of runs above each threshold (T,), and its interval's bounds (T,) (section 4.2)."""
    joined = np.concatenate(list(scores.values()))
    share = (joined[None] > thresholds[:, None]).mean(1)
    if max(map(len, scores.values())) < 2:
        nothing = np.full(len(thresholds), np.nan)
        return share, nothing, nothing
    rng = np.random.default_rng(seed)
    resamples = np.concatenate([_resampled(x, rng, 500) for x in scores.values()], axis=1)
    shares = np.stack([(resamples > threshold).mean(1) for threshold in thresholds])
    tail = (1 - CONFIDENCE) / 2
    return share, np.quantile(shares, tail, axis=1), np.quantile(shares, 1 - tail, axis=1)


def importance(values: pd.Series, scores: pd.Series) -> float:
    """Share of the scores' variance that one key's main effect explains, in [0, 1].

    One-way analysis of variance, epsilon squared (Kelley 1935): eta squared less what levels
    explain by chance. A numeric key of more than LEVELS_AT_MOST values is cut at its quartiles.
    """
    known = scores.notna()
    levels, y = values[known], scores[known].to_numpy(float)
    if levels.nunique() > LEVELS_AT_MOST and pd.api.types.is_numeric_dtype(levels):
        levels = pd.qcut(levels, 4, duplicates="drop")
    codes, kinds = pd.factorize(levels)
    total = ((y - y.mean()) ** 2).sum() if len(y) else 0.0
    num_levels, num_free = len(kinds), len(y) - len(kinds)
    if num_levels < 2 or num_free < 1 or total == 0:
        return 0.0
    within = sum(((y[codes == k] - y[codes == k].mean()) ** 2).sum() for k in range(num_levels))
    between = total - within
    return float(max(0.0, (between - (num_levels - 1) * within / num_free) / total))


def _resampled(
    scores: np.ndarray, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> np.ndarray:
    """(N,) -> (num_resamples, N), drawn with replacement."""
    return scores[rng.integers(len(scores), size=(num_resamples, len(scores)))]


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., N), (..., M) -> (...)."""
    above = x[..., :, None] > y[..., None, :]
    ties = x[..., :, None] == y[..., None, :]
    return (above + ties / 2).mean((-2, -1))
