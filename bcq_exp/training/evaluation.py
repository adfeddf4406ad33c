"""Evaluate a policy in its environment: episodes in parallel, always with the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Space
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.mlp import in_eval_mode
from bcq_exp.algorithm.policy import Policy, Predictor
from bcq_exp.data.environments import check_ends
from bcq_exp.errors import UserError

_ROWS_AT_ONCE = 65536


@dataclass(frozen=True)
class ObsNormalizer:
    """Scales observations (..., O) to mean 0 and standard deviation 1 over the data set."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, obs: np.ndarray, is_one_hot: np.ndarray | None = None) -> ObsNormalizer:
        """Compute the scaling from observations (N, O); a constant column is only centred.

        A column is constant if it varies by no more than the rounding of its mean in float32.

        Args:
            is_one_hot: columns that stay unscaled (O,).
        """
        # In parts, because NumPy's std makes a copy of all in float64.
        parts = [obs[i : i + _ROWS_AT_ONCE] for i in range(0, len(obs), _ROWS_AT_ONCE)]
        mean = sum(part.sum(0, dtype=np.float64) for part in parts) / len(obs)
        std = np.sqrt(sum(((part - mean) ** 2).sum(0) for part in parts) / len(obs))
        rounding = np.finfo(np.float32).eps * np.abs(mean)
        std = np.where(std > rounding, std, 1.0)
        if is_one_hot is not None:
            mean, std = np.where(is_one_hot, 0.0, mean), np.where(is_one_hot, 1.0, std)
        return cls(mean, std)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return ((obs - self.mean) / self.std).astype(np.float32)

    def state_dict(self) -> dict[str, list[float]]:
        """Return plain numbers, for the checkpoint."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_state_dict(cls, state: dict[str, list[float]]) -> ObsNormalizer:
        """The inverse of :meth:`state_dict`."""
        return cls(np.asarray(state["mean"]), np.asarray(state["std"]))


@dataclass(frozen=True)
class Agent(Predictor):
    """A policy with observation scaling and conversion of actions, for use in an environment.

    Args:
        action_value: the algorithm's estimate of Q, in the networks' units
            (:meth:`~bcq_exp.algorithm.base.OfflineAlgorithm.value`).
        gamma: the discount of the estimated return; None without an estimate.
    """

    policy: Policy
    normalizer: ObsNormalizer | None = None
    action_value: Callable[[Tensor, Tensor], Tensor | None] | None = None
    gamma: float | None = None

    @classmethod
    def of(cls, algorithm: OfflineAlgorithm, normalizer: ObsNormalizer | None) -> Agent:
        """Make an agent of a trained algorithm."""
        gamma = getattr(algorithm.hyperparameters, "gamma", None)
        value = partial(_value, algorithm)  # not a closure, which could not be pickled
        return cls(algorithm.policy, normalizer, value, gamma)

    @property
    def observation_space(self) -> Space | None:
        return self.policy.observation_space

    def act(self, obs: Any, generator: torch.Generator | None = None) -> np.ndarray:
        return self.policy.act(self._scaled(np.asarray(obs)), generator)

    def action_probabilities(self, obs: np.ndarray) -> np.ndarray:
        """Return pi(a | s) of a policy of n discrete actions, (B, O) -> (B, n)."""
        policy: Any = self.policy
        return policy.action_probabilities(self._scaled(obs)).cpu().numpy()

    @torch.no_grad()
    def value(self, obs: np.ndarray, act: np.ndarray) -> np.ndarray | None:
        """Estimate Q(s, a), (B,), of the environment's (B, O) and (B, A); None without a critic."""
        if self.action_value is None:
            return None
        unit = self.policy.map_action_inverse(act)
        found = self.action_value(
            self.policy.as_tensor(self._scaled(obs)), self.policy.as_tensor(unit)
        )
        return None if found is None else found.to("cpu", torch.float64).numpy()

    def _scaled(self, obs: np.ndarray) -> np.ndarray:
        self.check_obs(obs)
        return obs if self.normalizer is None else self.normalizer(obs)


def _value(algorithm: OfflineAlgorithm, obs: Tensor, act: Tensor) -> Tensor | None:
    with in_eval_mode(algorithm):
        found = algorithm.value(obs, act)
    if found is not None and found.shape != act.shape[:1]:
        raise UserError(
            f"{type(algorithm).__name__}.value: must return the shape ({len(act)},), a "
            f"value of each row, not {tuple(found.shape)}"
        )
    return found


@dataclass(frozen=True)
class EpisodeResults:
    """The results of E episodes.

    Args:
        returns: undiscounted returns (E,).
        lengths: lengths in steps (E,).
        discounted_returns: returns discounted by the agent's gamma (E,).
        values: the agent's estimates of those, Q(s_0, a_0) (E,).
        first_actions: the actions of the first episode (T, A), for replay.
    """

    returns: np.ndarray
    lengths: np.ndarray
    discounted_returns: np.ndarray | None
    values: np.ndarray | None
    first_actions: np.ndarray

    @property
    def return_mean(self) -> float:
        return float(self.returns.mean())

    @property
    def return_std(self) -> float:
        """Population standard deviation over the episodes."""
        return float(self.returns.std())

    @property
    def length_mean(self) -> float:
        return float(self.lengths.mean())

    @property
    def discounted_return_mean(self) -> float | None:
        return _mean(self.discounted_returns)

    @property
    def value_mean(self) -> float | None:
        """The estimate of :attr:`discounted_return_mean`; much larger means extrapolation error."""
        return _mean(self.values)


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.mean())


class Stopped(Exception):
    """An evaluation that was stopped before its episodes ended."""


class Evaluator:
    """Evaluates agents over ``num_episodes`` episodes side by side.

    Episode i always starts from ``seed + i``, in an environment made for it, and the policy samples
    from a separate generator with that seed, so that evaluations are comparable and do not affect
    training.

    Args:
        make_env: makes one environment with flat observations.

    Raises:
        DataError: if the environment's episodes have no end.
    """

    def __init__(self, make_env: Callable[..., gym.Env], num_episodes: int, seed: int) -> None:
        with ExitStack() as until_checked:
            check_ends(until_checked.enter_context(_closing(make_env())))
        self._make_env = make_env
        self._num_episodes = num_episodes
        self._seed = seed

    def evaluate(
        self, agent: Agent, is_stopped: Callable[[], bool] = lambda: False
    ) -> EpisodeResults:
        """Run one whole episode in each environment.

        Args:
            is_stopped: called before each step.

        Raises:
            Stopped: once it is true.
            DataError: if an environment cannot be made any more.
        """
        with ExitStack() as until_ended:
            made = (_closing(self._make_env()) for _ in range(self._num_episodes))
            envs = [until_ended.enter_context(env) for env in made]
            return self._episodes(envs, agent, is_stopped)

    def _episodes(
        self, envs: Sequence[gym.Env], agent: Agent, is_stopped: Callable[[], bool]
    ) -> EpisodeResults:
        generator = torch.Generator().manual_seed(self._seed)
        obs = _empty(envs[0].observation_space, len(envs))
        for i, env in enumerate(envs):
            _put(env.reset(seed=self._seed + i)[0], obs[i])
        returns, discounted, rewards = np.zeros((3, len(envs)))
        discount, values = 1.0, None
        first_actions = []
        lengths = np.zeros(len(envs), dtype=np.int64)
        running = np.ones(len(envs), dtype=bool)
        while running.any():
            if is_stopped():
                raise Stopped
            alive = np.flatnonzero(running).tolist()
            # a new array at each step: an environment may keep its action, or write to it
            act = _empty(envs[0].action_space, len(envs))
            act[alive] = agent.act(obs[alive], generator)
            if not lengths.any():
                values = agent.value(obs, act)
            if running[0]:
                first_actions.append(act[0].copy())
            for i in alive:
                found, rewards[i], terminated, truncated, _ = envs[i].step(act[i])
                _put(found, obs[i])
                running[i] = not (terminated or truncated)
            returns[alive] += rewards[alive]
            if agent.gamma is not None:
                discounted[alive] += discount * rewards[alive]
                discount *= agent.gamma
            lengths[alive] += 1
        return EpisodeResults(
            returns=returns,
            lengths=lengths,
            discounted_returns=None if agent.gamma is None else discounted,
            values=values,
            first_actions=np.stack(first_actions),
        )


@contextmanager
def _closing(env: gym.Env) -> Iterator[gym.Env]:
    """Close an environment after a block; what fails then does not concern its episodes."""
    try:
        yield env
    finally:
        with suppress(Exception):
            env.close()


def _put(found: Any, into: np.ndarray) -> None:
    """Copy an observation.

    Raises:
        ValueError: if its shape is not that of its space.
        TypeError: if its kind of number does not fit.
    """
    if np.shape(found) != into.shape:
        raise ValueError(f"an observation has the shape {np.shape(found)}, its space {into.shape}")
    np.copyto(into, found)


def _empty(space: Space, count: int) -> np.ndarray:
    return np.zeros((count, *(space.shape or ())), space.dtype)
