"""Running a policy in its environment: all episodes at once, always from the same starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.policy import Policy


@dataclass(frozen=True)
class ObsNormalizer:
    """Scales observations (..., O) to mean 0 and standard deviation 1 over the data set."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, obs: np.ndarray) -> ObsNormalizer:
        """From a data set's observations (N, O); a constant entry is only centred."""
        std = obs.std(0, dtype=np.float64)
        return cls(obs.mean(0, dtype=np.float64), np.where(std > 1e-6, std, 1.0))

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return ((obs - self.mean) / self.std).astype(np.float32)

    def state_dict(self) -> dict[str, list[float]]:
        """Plain numbers, for the checkpoint."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_state_dict(cls, state: dict[str, list[float]]) -> ObsNormalizer:
        """The inverse of :meth:`state_dict`."""
        return cls(np.asarray(state["mean"]), np.asarray(state["std"]))


@dataclass(frozen=True)
class Agent:
    """A policy with what lies between it and the environment: observation scaling, action units."""

    policy: Policy
    normalizer: ObsNormalizer | None = None

    def act(self, obs: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Environment actions (B, A) for environment observations (B, O)."""
        if self.normalizer is not None:
            obs = self.normalizer(obs)
        unit = self.policy(Batch(obs=obs), generator=generator).act
        return self.policy.map_action(unit)


@dataclass(frozen=True)
class EpisodeResults:
    """Undiscounted returns (E,) and lengths in steps (E,) of E episodes."""

    returns: np.ndarray
    lengths: np.ndarray

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


class Evaluator:
    """Evaluates agents over ``num_episodes`` episodes, run side by side in a vector environment.

    Episode i always starts from ``seed + i``, and the policy's samples come from a generator of
    their own with that seed, so evaluations compare and training's random numbers are not touched.

    Args:
        make_env: makes one environment with flat observations.
    """

    def __init__(self, make_env: Callable[..., gym.Env], num_episodes: int, seed: int) -> None:
        self._envs = SyncVectorEnv(
            [make_env] * num_episodes, autoreset_mode=AutoresetMode.NEXT_STEP
        )
        self._num_episodes = num_episodes
        self._seed = seed

    def evaluate(self, agent: Agent) -> EpisodeResults:
        """One whole episode in each environment."""
        generator = torch.Generator().manual_seed(self._seed)
        obs, _ = self._envs.reset(seed=[self._seed + i for i in range(self._num_episodes)])
        returns = np.zeros(self._num_episodes)
        lengths = np.zeros(self._num_episodes, dtype=np.int64)
        running = np.ones(self._num_episodes, dtype=bool)
        act = np.zeros(self._envs.action_space.shape or (), dtype=self._envs.action_space.dtype)
        while running.any():
            # A finished environment resets itself and idles on: it is stepped, but its policy is
            # not asked and its rewards do not count.
            act[running] = agent.act(obs[running], generator)
            obs, rewards, terminated, truncated, _ = self._envs.step(act)
            returns[running] += rewards[running]
            lengths[running] += 1
            running &= ~(terminated | truncated)
        return EpisodeResults(returns, lengths)

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
