"""Exploration of an environment, determined by the seed and the actions taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from bcq_exp.engine.stream import BLOCK_STEPS, generator

Behave = Callable[[np.ndarray, int], np.ndarray]
"""A policy's action (A,) for an observation (O,); what it draws, it draws from the seed."""

# purposes of random numbers
EPISODE, RANDOM, NOISE, POLICY = "episode", "random", "explore", "policy"


class Moment(NamedTuple):
    """One step of an environment: ``obs``, ``obs_next`` (O,), ``act`` (A,) in its unit."""

    obs: np.ndarray
    act: np.ndarray
    rew: float
    terminated: bool
    truncated: bool
    obs_next: np.ndarray


class Explorer:
    """Explores an environment: uniformly random steps, then a policy's with noise.

    Episode starts, random actions, the policy's samples and noise depend only on the seed and the
    step, so that replaying an episode's actions restores its state.

    Args:
        env: an environment with flat observations and a bounded Box of actions.
        seed: the seed of the run.
        start_steps: the number of random steps.
        noise_std: deviation of the Gaussian added to the policy's actions, in units of half their
            range.
    """

    def __init__(self, env: gym.Env, seed: int, start_steps: int, noise_std: float) -> None:
        self._env = env
        self._seed = seed
        self._start_steps = start_steps
        self._low, self._high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
        self._noise = noise_std * (self._high - self._low) / 2
        self.episode = -1
        self.episode_start = 0  # first step of the episode
        self._obs = np.empty(0)
        self._block = -1  # of buffered random numbers
        self._uniform = self._normal = np.empty(0)
        self._policy_seeds = np.empty(0, np.int64)

    def step(self, step: int, behave: Behave) -> Moment:
        """Take step ``step`` of the environment, counted from 0."""
        if self.episode < 0:
            self._begin(0, step)
        moment = self._take(self._action(step, behave))
        if moment.terminated or moment.truncated:
            self._begin(self.episode + 1, step + 1)
        return moment

    def resume(self, episode: int, episode_start: int, actions: Iterable[np.ndarray]) -> None:
        """Restore the state after these actions of the episode that began at that step."""
        if episode < 0:
            return
        self._begin(episode, episode_start)
        for action in actions:
            self._take(action)

    def _begin(self, episode: int, step: int) -> None:
        self.episode, self.episode_start = episode, step
        start = int(generator(self._seed, EPISODE, episode).integers(2**31))
        self._obs = np.array(self._env.reset(seed=start)[0])

    def _action(self, step: int, behave: Behave) -> np.ndarray:
        block, row = divmod(step, BLOCK_STEPS)
        if block != self._block:
            self._block = block
            shape = (BLOCK_STEPS, *self._low.shape)
            self._uniform = generator(self._seed, RANDOM, block).uniform(size=shape)
            self._normal = generator(self._seed, NOISE, block).standard_normal(shape)
            seeds = generator(self._seed, POLICY, block)
            self._policy_seeds = seeds.integers(2**63, size=BLOCK_STEPS)
        if step < self._start_steps:
            action = self._low + (self._high - self._low) * self._uniform[row]
        else:
            action = behave(self._obs, int(self._policy_seeds[row]))
            action = action + self._normal[row] * self._noise
        return action.clip(self._low, self._high).astype(self._low.dtype)

    def _take(self, action: np.ndarray) -> Moment:
        obs = self._obs
        # the environment may write to its action and observation
        obs_next, rew, terminated, truncated, _ = self._env.step(action.copy())
        self._obs = np.array(obs_next)
        return Moment(obs, action, float(rew), bool(terminated), bool(truncated), self._obs)
