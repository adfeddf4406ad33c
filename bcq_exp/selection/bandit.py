"""What episodes in the environment buy: a UCB bandit over policies (UCB1, Auer et al. 2002), by the
protocol of unifloral (Jackson et al. 2025, arXiv:2504.11453), played with recorded episodes.

An arm is a policy and a pull one of its recorded returns, on a scale of 0 to 100. After each pull
the policy of the best mean so far is chosen, and its true mean return is what one would get. Here
only policies that were pulled can be chosen; those that were not are pulled first, in an order that
is random or an offline ranking's, which then also chooses before the first pull.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALPHA = 2.0  # of the bonus, as there
TRIALS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class BudgetCurve:
    """The expected return of the policy chosen after so many episodes.

    Args:
        episodes: 0, or 1, and on.
        returns, low, high: mean over trials, and where the middle 95% of trials lie.
    """

    episodes: np.ndarray
    returns: np.ndarray
    low: np.ndarray
    high: np.ndarray


def budget_curve(
    returns: np.ndarray, num_pulls: int, ranking: np.ndarray | None = None, seed: int = 0
) -> BudgetCurve:
    """Play the bandit TRIALS times.

    Args:
        returns: of every policy's recorded episodes (P, E).
        ranking: policies from best to worst by an offline estimate (P,); ``None`` starts with any.
    """
    rng = np.random.default_rng(seed)
    trials = np.stack([_trial(returns, num_pulls, ranking, rng) for _ in range(TRIALS)])
    means = returns.mean(1)
    got = means[trials]  # (TRIALS, num_pulls)
    episodes = np.arange(1, num_pulls + 1)
    if ranking is not None:
        got = np.concatenate([np.full((TRIALS, 1), means[ranking[0]]), got], 1)
        episodes = np.arange(num_pulls + 1)
    low, high = np.quantile(got, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return BudgetCurve(episodes, got.mean(0), low, high)


def _trial(
    returns: np.ndarray, num_pulls: int, ranking: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """The policy chosen after each pull (num_pulls,)."""
    spread = np.ptp(returns) or 1.0
    scaled = 100 * (returns - returns.min()) / spread
    num_policies, num_episodes = returns.shape
    first = rng.permutation(num_policies) if ranking is None else ranking
    counts, sums = np.zeros(num_policies), np.zeros(num_policies)
    chosen = np.empty(num_pulls, dtype=int)
    for pull in range(num_pulls):
        if pull < num_policies:
            arm = first[pull]
        else:
            bound = sums / counts + np.sqrt(ALPHA * np.log(pull + 1) / counts)
            arm = rng.choice(np.flatnonzero(bound == bound.max()))
        counts[arm] += 1
        sums[arm] += scaled[arm, rng.integers(num_episodes)]
        means = np.divide(sums, counts, out=np.full(num_policies, -np.inf), where=counts > 0)
        chosen[pull] = means.argmax()
    return chosen
