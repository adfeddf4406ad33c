"""Measures of a ranking of policies with known returns (Fu et al. 2021, arXiv:2103.16596,
section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, nan

import numpy as np

from bcq_exp.analysis import statistics

RESAMPLES = 2000
FEWEST = 3  # policies that measures of a ranking need


@dataclass(frozen=True)
class Measured:
    """A number, NaN if it is undefined, and its interval.

    The interval is over policies: the variation with other policies of the kind. It ignores
    errors of their returns.

    Args:
        num_policies: policies with a score and a return.
    """

    value: float
    low: float
    high: float
    num_policies: int


def spearman(scores: np.ndarray, returns: np.ndarray) -> float:
    """Spearman's rank correlation of (P,) and (P,): Pearson's of the ranks, ties at their mean."""
    a, b = _ranks(scores), _ranks(returns)
    if a.std() == 0 or b.std() == 0:
        return nan
    return float(np.corrcoef(a, b)[0, 1])


def regret(scores: np.ndarray, returns: np.ndarray, k: int) -> float:
    """regret@k: how much less than the best of all policies the best of the k of highest scores
    returns, as a share of the range from the worst to the best; NaN where all return the same.

    With equal scores, the result is the mean over all orders of them.
    """
    spread = np.ptp(returns)
    if spread == 0:
        return nan
    if len(scores) <= k:
        return 0.0
    last = np.sort(scores)[-k]  # the least of the k
    surely, perhaps = returns[scores > last], np.sort(returns[scores == last])
    num_chosen = k - len(surely)
    ways = [comb(rank, num_chosen - 1) for rank in range(len(perhaps))]  # each is the best chosen
    chances = np.array([float(way / sum(ways)) for way in ways])
    best = chances @ np.maximum(perhaps, surely.max(initial=-np.inf))
    return float((returns.max() - best) / spread)


def measured(
    measure: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    returns: np.ndarray,
    limits: tuple[float, float],
    seed: int = 0,
) -> Measured:
    """A measure of policies' scores and returns, (P,) each, with its interval by a bootstrap's
    standard error, within what the measure can be.

    Only policies with both count; there must be at least FEWEST.
    """
    known = np.isfinite(scores) & np.isfinite(returns)
    scores, returns = scores[known], returns[known]
    if len(scores) < FEWEST:
        return Measured(nan, nan, nan, len(scores))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    found = np.array([measure(scores[rows], returns[rows]) for rows in drawn])
    found = found[np.isfinite(found)]
    value = measure(scores, returns)
    if not len(found) or np.ptp(found) < 1e-9:  # the same in all: that is no certainty
        return Measured(value, nan, nan, len(scores))
    num_free = len(scores) - 1
    error = float(found.std() * np.sqrt(len(scores) / num_free))
    low, high = np.clip(statistics.interval(value, error, num_free)[1:], *limits)
    return Measured(value, float(low), float(high), len(scores))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]
