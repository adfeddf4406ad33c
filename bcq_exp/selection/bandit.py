"""The value of online episodes: a UCB bandit over policies (UCB1, Auer et al. 2002).

The protocol is that of unifloral (Jackson et al. 2025, arXiv:2504.11453), simulated with recorded
episodes.

An arm is a policy, and a pull is one of its recorded returns, scaled to 0 to 100. After each pull
the policy with the best mean so far is chosen, and the result is its true mean return. Differences
from the protocol: all policies play in every trial, not a random subset; bands are quantiles of
trials, not intervals of their mean; only policies that were pulled can be chosen, ties at random;
and policies are first pulled once each, in random order or that of an offline ranking, which then
also chooses before the first pull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 2.0  # of the bonus, as in unifloral
TRIALS = 4000
LEVEL = 0.95  # share of trials within a band


@dataclass(frozen=True)
class BudgetCurve:
    """The expected return of the policy chosen after a number of episodes.

    Args:
        episodes: numbers of episodes, from 0 or 1 on.
        returns, low, high: mean over trials, and the range of the middle 95% of trials.
    """

    episodes: np.ndarray
    returns: np.ndarray
    low: np.ndarray
    high: np.ndarray


def budget_curve(
    returns: Sequence[np.ndarray],
    num_pulls: int,
    ranking: np.ndarray | None = None,
    seed: int = 0,
) -> BudgetCurve:
    """Play the bandit TRIALS times.

    Args:
        returns: the returns of recorded episodes, for each of P policies.
        ranking: policies from best to worst by an offline estimate (P,); ``None`` is random.
    """
    chosen = _play(returns, num_pulls, ranking, np.random.default_rng(seed))
    means = np.array([own.mean() for own in returns])
    got = means[chosen]
    episodes = np.arange(1, num_pulls + 1)
    if ranking is not None:
        got = np.concatenate([np.full((TRIALS, 1), means[ranking[0]]), got], 1)
        episodes = np.arange(num_pulls + 1)
    low, high = np.quantile(got, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return BudgetCurve(episodes, got.mean(0), low, high)


def _play(
    returns: Sequence[np.ndarray],
    num_pulls: int,
    ranking: np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the policies chosen in each trial after each pull (TRIALS, num_pulls)."""
    lowest, highest = min(map(np.min, returns)), max(map(np.max, returns))
    scale = 100 / ((highest - lowest) or 1.0)
    num_policies, num_episodes = len(returns), np.array(list(map(len, returns)))
    recorded = np.zeros((num_policies, num_episodes.max()))
    for policy, own in enumerate(returns):
        recorded[policy, : len(own)] = scale * (own - lowest)
    first = np.tile(np.arange(num_policies) if ranking is None else ranking, (TRIALS, 1))
    if ranking is None:
        first = rng.permuted(first, axis=1)
    counts, sums = np.zeros((2, TRIALS, num_policies))
    chosen = np.empty((TRIALS, num_pulls), dtype=int)
    for pull in range(num_pulls):
        if pull < num_policies:
            arms = first[:, pull]
        else:
            arms = _any_best(sums / counts + np.sqrt(ALPHA * np.log(pull + 1) / counts), rng)
        pulled = np.arange(TRIALS), arms
        counts[pulled] += 1
        sums[pulled] += recorded[arms, rng.integers(num_episodes[arms])]
        means = np.divide(sums, counts, out=np.full_like(sums, -np.inf), where=counts > 0)
        chosen[:, pull] = _any_best(means, rng)
    return chosen


def _any_best(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the index of each row's greatest value, ties at random."""
    is_best = values == values.max(1, keepdims=True)
    return np.where(is_best, rng.random(values.shape), -1.0).argmax(1)
