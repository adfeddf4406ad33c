"""Importance sampling and doubly robust estimates of a policy's value, from recorded episodes.

Of E episodes of at most T steps, with rho_t = pi(a_t | s_t) / b(a_t | s_t), w_t = rho_0 ... rho_t
and w_{-1} = 1:

    WIS    sum_i w_i G_i / sum_i w_i                               Precup, Sutton & Singh 2000
    PDWIS  sum_t gamma^t sum_i w_it r_it / sum_i w_it              Thomas 2015, "CWPDIS"
    WDR    sum_t gamma^t [sum_i w_it (r_it - Q_it) / sum_i w_it    Thomas & Brunskill 2016,
                          + sum_i w_i,t-1 V_it / sum_i w_i,t-1]    arXiv:1604.00923

In PDWIS, episodes that are not cut by step t also stand for those that are: their weights are
divided by the share of episodes not cut, estimated as by Kaplan & Meier 1958.

All are sums of ratios of sums over episodes, a form that suits a bootstrap over episodes: a draw
only changes how often each episode counts (:class:`Ratios`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bcq_exp.analysis import statistics

NUM_DRAWS = 1000
DRAWS_AT_ONCE = 50
LEAST_KNOWN = 0.1  # share of episodes not cut that a step needs: with fewer, only ends may be known


@dataclass(frozen=True)
class Episodes:
    """Recorded episodes, padded to the longest.

    After a terminated episode, rewards are 0 under any policy. After a cut episode, they are
    unknown.

    Args:
        rew: rewards (E, T), 0 after the end.
        log_ratios: log rho (E, T), 0 after the end; minus infinity if the policy never takes the
            recorded action.
        lengths: recorded steps (E,).
        is_cut: whether each was truncated rather than terminated (E,).
    """

    rew: np.ndarray
    log_ratios: np.ndarray
    lengths: np.ndarray
    is_cut: np.ndarray

    @classmethod
    def of(
        cls, rew: np.ndarray, log_ratios: np.ndarray, episode_rows: np.ndarray, is_cut: np.ndarray
    ) -> Episodes:
        """Make episodes of N consecutive steps; ``episode_rows`` and ``is_cut`` are (E,)."""
        return cls(
            padded(rew, episode_rows), padded(log_ratios, episode_rows), episode_rows, is_cut
        )

    @cached_property
    def is_known(self) -> np.ndarray:
        """Whether a step was recorded, or comes after a termination (E, T)."""
        steps = np.arange(self.rew.shape[1])
        return (steps < self.lengths[:, None]) | ~self.is_cut[:, None]

    @cached_property
    def is_estimated(self) -> np.ndarray:
        """Whether enough episodes are not cut by a step (T,)."""
        return are_known(self._shares_uncut)

    @cached_property
    def log_weights_of_known(self) -> np.ndarray:
        """log w_t of known steps for t = 0, ..., T - 1, which stand for the others too: (E, T)."""
        last = np.minimum(np.arange(self.rew.shape[1]), self.lengths[:, None] - 1)
        up = np.log(self._shares_uncut)[last]
        return np.where(self.is_known, self.log_weights[:, 1:] - up, -np.inf)

    @cached_property
    def _shares_uncut(self) -> np.ndarray:
        return shares_uncut(self.lengths, self.is_cut)

    @cached_property
    def log_weights(self) -> np.ndarray:
        """log w_t for t = -1, ..., T - 1: (E, T + 1); constant after the end."""
        return np.pad(np.cumsum(self.log_ratios, 1, dtype=np.float64), ((0, 0), (1, 0)))


def shares_uncut(lengths: np.ndarray, is_cut: np.ndarray) -> np.ndarray:
    """Estimate the share of episodes that are not cut before each step, if none terminates (T,).

    Kaplan & Meier 1958, of the time of the cut. Arguments as of :class:`Episodes`.
    """
    num_steps = int(lengths.max())
    num_cut = np.bincount(lengths[is_cut], minlength=num_steps + 1)[:num_steps]
    num_taken = len(lengths) - np.cumsum(np.bincount(lengths))[:num_steps]
    return np.cumprod(num_taken / (num_taken + num_cut))


def are_known(shares: np.ndarray) -> np.ndarray:
    """Whether enough of the episodes are not cut by each step (T,), by :func:`shares_uncut`."""
    return shares >= LEAST_KNOWN


def padded(values: np.ndarray, episode_rows: np.ndarray, num_steps: int = 0) -> np.ndarray:
    """Pad values of N consecutive steps to (E, T) in float64, 0 after each episode's end.

    T is the longest episode's length, or ``num_steps`` if that is larger.
    """
    width = max(num_steps, int(episode_rows.max()))
    out = np.zeros((len(episode_rows), width))
    out[np.arange(width) < episode_rows[:, None]] = values
    return out


def effective_sample_size(log_weights: np.ndarray) -> np.ndarray:
    """(sum w)^2 / sum w^2 over the first dimension, (E, ...) -> (...); 0 where all weights are 0.

    Kish 1965: so many episodes of equal weight have the same variance.
    """
    weights = _scaled(log_weights)
    total = weights.sum(0)
    return np.divide(total**2, (weights**2).sum(0), out=np.zeros_like(total), where=total > 0)


class EffectiveSizes(NamedTuple):
    """Effective sample sizes: of whole episodes, and the least of cumulative weights by step."""

    of_episodes: float
    least: float


def effective_sizes(episodes: Episodes) -> EffectiveSizes:
    """Return the effective sample sizes of the weights of WIS and of PDWIS."""
    of_steps = effective_sample_size(episodes.log_weights_of_known[:, episodes.is_estimated])
    whole = effective_sample_size(episodes.log_weights[:, -1])
    return EffectiveSizes(float(whole), float(of_steps.min()))


@dataclass(frozen=True)
class Ratios:
    """An estimate sum_s scale_s (sum_i x_is) / (sum_i w_is), over episodes i.

    Args:
        numerators, denominators: x and w (E, S).
        scale: (S,).
    """

    numerators: np.ndarray
    denominators: np.ndarray
    scale: np.ndarray

    @property
    def value(self) -> float:
        """The estimate; NaN where all of a step's weights are 0."""
        return float(self._parts.sum())

    @cached_property
    def _parts(self) -> np.ndarray:
        above, below = self.numerators.sum(0), self.denominators.sum(0)
        parts = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return self.scale * parts

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimate with episodes counted by draws, (B, E) -> (B,).

        A step whose weights in a draw are all 0 keeps its value of the estimate.
        """
        above, below = counts @ self.numerators, counts @ self.denominators
        parts = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.where(below > 0, self.scale * parts, self._parts).sum(1)

    def interval(self, num_effective: float, seed: int = 0) -> statistics.Estimate:
        """Return the estimate with its t interval by a bootstrap over episodes.

        Args:
            num_effective: the effective sample size, which gives the degrees of freedom.
        """
        if not num_effective > 1:
            return statistics.Estimate(self.value, np.nan, np.nan)
        found = [self.drawn(counts) for counts in _draws(len(self.numerators), seed)]
        error = float(np.concatenate(found).std())
        correction = np.sqrt(num_effective / (num_effective - 1))
        return statistics.interval(self.value, correction * error, num_effective - 1)


def trajectory_importance(episodes: Episodes, gamma: float) -> Ratios:
    """WIS: recorded discounted returns weighted by whole episodes."""
    returns = (episodes.rew @ gamma ** np.arange(episodes.rew.shape[1]))[:, None]
    x, w = _sums(returns, episodes.log_weights[:, -1:])
    return Ratios(x, w, np.ones(1))


def per_decision_importance(episodes: Episodes, gamma: float) -> Ratios:
    """PDWIS: each step's rewards weighted up to that step.

    Only episodes that are known at a step count there, and only steps that enough episodes reach.
    """
    steps = np.flatnonzero(episodes.is_estimated)
    x, w = _sums(episodes.rew[:, steps], episodes.log_weights_of_known[:, steps])
    return Ratios(x, w, gamma**steps)


def doubly_robust(episodes: Episodes, gamma: float, q: np.ndarray, v: np.ndarray) -> Ratios:
    """WDR: a model's values, corrected by weighted errors of the model.

    After a cut, the model's V of the last state stands for the rewards that follow.

    Args:
        q: the model's Q of recorded states and actions (E, T), 0 after the end.
        v: the model's V of recorded states and the state after the last step, (E, T + 1); 0 after
            that, and 0 for the last state of a terminated episode.
    """
    corrections = _sums(episodes.rew - q, episodes.log_weights[:, 1:])
    states = _sums(v, episodes.log_weights)
    discounts = gamma ** np.arange(v.shape[1])
    x, w = (np.concatenate(pair, 1) for pair in zip(corrections, states, strict=True))
    return Ratios(x, w, np.concatenate([discounts[:-1], discounts]))


def _sums(values: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The terms of sum_i w_i x_i and of sum_i w_i."""
    weights = _scaled(log_weights)
    return weights * values, weights


def _scaled(log_weights: np.ndarray) -> np.ndarray:
    """Compute exp of (E, ...), scaled so that the largest over E is 1: ratios of sums are the
    same, and finite."""
    largest = log_weights.max(0)
    return np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))


def _draws(num_episodes: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the counts of episodes in bootstrap samples (B, E), NUM_DRAWS in total."""
    rng = np.random.default_rng(seed)
    for _ in range(NUM_DRAWS // DRAWS_AT_ONCE):
        drawn = rng.integers(num_episodes, size=(DRAWS_AT_ONCE, num_episodes))
        rows = np.arange(DRAWS_AT_ONCE)[:, None] * num_episodes
        yield (
            np.bincount((drawn + rows).ravel(), minlength=drawn.size)
            .reshape(drawn.shape)
            .astype(float)
        )
