"""How good a ranking of policies is, where their returns are known (Fu et al. 2021,
arXiv:2103.16596, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """A number, NaN where it is not defined, and its interval.

    That is a bootstrap's over policies: what other policies of the kind might have told.
    """

    value: float
    low: float
    high: float


def spearman(scores: np.ndarray, returns: np.ndarray) -> float:
    """Spearman's rank correlation of (P,) and (P,): Pearson's of the ranks, ties at their mean."""
    a, b = _ranks(scores), _ranks(returns)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def regret(scores: np.ndarray, returns: np.ndarray, k: int) -> float:
    """regret@k: how much less than the best of all policies the best of the k of highest scores
    returns, as a share of the range from the worst to the best; NaN where all return the same."""
    spread = np.ptp(returns)
    if spread == 0:
        return float("nan")
    top = np.argsort(-scores, kind="stable")[:k]
    return float((returns.max() - returns[top].max()) / spread)


def measured(
    measure: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    returns: np.ndarray,
    seed: int = 0,
) -> Measured:
    """A measure of policies' scores and returns, (P,) each, with its percentile interval.

    Policies without a score are ranked last: whoever chose by it would not have chosen them.
    """
    known = np.isfinite(scores)
    if not known.any():
        return Measured(*[float("nan")] * 3)
    scores = np.where(known, scores, -np.inf)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    found = np.array([measure(scores[rows], returns[rows]) for rows in drawn])
    found = found[np.isfinite(found)]
    value = measure(scores, returns)
    if not len(found):
        return Measured(value, float("nan"), float("nan"))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measured(value, float(low), float(high))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]
