"""Behaviour policies, collection of data with them, and storage of the data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from bcq_exp.data import minari_store
from bcq_exp.data.env_specs import importable
from bcq_exp.data.environments import env_name
from bcq_exp.data.resolution import Resolution
from bcq_exp.data.spaces import ActionSpace, check_action_space
from bcq_exp.data.transitions import DataError

if TYPE_CHECKING:
    from minari.data_collector.episode_buffer import EpisodeBuffer

_STEP_BYTES = 10  # of a step's reward and flags
_EPISODE_BYTES = 2**15  # that HDF5 needs for an episode's groups and headers

Behaviour = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Maps an observation ``(O,)`` to what the environment takes: ``(A,)``, or a discrete action."""


@dataclass(frozen=True)
class UniformRandom:
    """Actions drawn uniformly from the whole (bounded) action space."""

    action_space: ActionSpace

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        space = self.action_space
        if isinstance(space, Discrete):
            return np.asarray(rng.integers(space.start, space.start + space.n))
        return rng.uniform(space.low, space.high).astype(space.dtype)


@dataclass(frozen=True)
class Noisy:
    """Another behaviour with the two kinds of noise of the BCQ paper's section 6.

    Args:
        behaviour: the behaviour to disturb.
        action_space: bounds; results are clipped to it. Discrete actions have no noise.
        noise_std: standard deviation of the Gaussian added to each action, in units of HALF the
            action's range, so that the paper's N(0, 0.3) on [-1, 1] is 0.3 here on any range.
        random_action_prob: share of steps that take a uniform action instead (paper: 0.3).
    """

    behaviour: Behaviour
    action_space: ActionSpace
    noise_std: float
    random_action_prob: float

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        space = self.action_space
        if rng.random() < self.random_action_prob:
            return UniformRandom(space)(obs, rng)
        if isinstance(space, Discrete):
            return self.behaviour(obs, rng)
        half_range = (space.high - space.low) / 2
        noise = rng.normal(0.0, self.noise_std, size=space.shape) * half_range
        return np.clip(self.behaviour(obs, rng) + noise, space.low, space.high).astype(space.dtype)


def swing_up(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Control Pendulum-v1: pump energy until the top is in reach, then balance there.

    With the angle ``th`` from upright (rad), Gymnasium's pendulum obeys
    ``th'' = 15 sin(th) + 3 torque``; its energy ``th'^2 / 2 + 15 cos(th)`` equals 15 when it rests
    upright.
    """
    cos, sin, speed = (float(value) for value in obs)
    angle = np.arctan2(sin, cos)
    if abs(angle) < 0.4:
        torque = -10 * angle - 2 * speed
    else:
        missing = 15 - (speed**2 / 2 + 15 * cos)
        torque = 3 * missing * (1 if speed >= 0 else -1)
    return np.clip([torque], -2, 2).astype(np.float32)


def follow_pole(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Control CartPole-v1: push to the side to which the pole falls and the cart drifts."""
    # of position (m), speed (m/s), angle (rad) and angular speed (rad/s)
    weights = (0.05, 0.1, 1.0, 0.5)
    return np.asarray(int(np.dot(weights, obs) > 0))


_SCRIPTED: dict[str, Behaviour] = {"Pendulum-v1": swing_up, "CartPole-v1": follow_pole}


def scripted(env_id: str) -> Behaviour:
    """Return the scripted behaviour for an environment.

    Raises:
        DataError: there is no scripted behaviour.
    """
    if env_id not in _SCRIPTED:
        raise DataError(
            f"environment {env_id!r} has no scripted behaviour; there is one for "
            f"{', '.join(_SCRIPTED)}"
        )
    return _SCRIPTED[env_id]


def collect(
    env: gym.Env,
    behaviour: Behaviour,
    *,
    num_steps: int,
    seed: int | Sequence[int],
    on_step: Callable[[int], None] = lambda step: None,
) -> "list[EpisodeBuffer]":
    """Run ``behaviour`` for exactly ``num_steps`` steps; the same seed gives the same steps.

    Args:
        env: an environment with flat observations ``(O,)`` and bounded or discrete actions.
        behaviour: the policy that acts.
        num_steps: recorded steps; an episode still running then is cut and marked truncated.
        seed: decides every episode's start and every random choice of the behaviour; several
            integers are one seed, as of :class:`numpy.random.SeedSequence`.
        on_step: called after each step with the number of steps so far.

    Returns:
        Episodes in Minari's buffers, arrays inside; ``seed`` of each is its environment's seed.

    Raises:
        DataError: an environment of another kind, a number that is NaN or infinite, or fewer than
            one step.
    """
    from minari.data_collector.episode_buffer import EpisodeBuffer

    source = f"collected in {env_name(env)}"
    check_action_space(source, env.action_space)
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        raise DataError(f"data set {source!r}: observations must be flat vectors")
    if num_steps < 1:
        raise DataError(f"data set {source!r}: num_steps is {num_steps}; at least 1 is needed")
    starts, choices = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    episodes: list[EpisodeBuffer] = []
    done = 0
    while done < num_steps:
        start = int(starts.integers(2**31))
        obs = np.array(env.reset(seed=start)[0])
        observations, actions, rewards = [obs], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            action = behaviour(obs, choices)
            actions.append(np.array(action))  # the environment may write to it, and to its own obs
            obs_next, reward, terminated, truncated, _ = env.step(action)
            obs = np.array(obs_next)
            done += 1
            truncated = truncated or (done == num_steps and not terminated)
            observations.append(obs)
            rewards.append(float(reward))
            on_step(done)
        stacked = np.stack(observations)
        for name, values in (("an observation", stacked), ("a reward", np.array(rewards))):
            if not np.isfinite(values).all():
                raise DataError(
                    f"environment {env_name(env)!r} returned {name} that is NaN or infinite in "
                    f"episode {len(episodes)}, which began at seed {start}; nothing was stored"
                )
        going_on = [False] * (len(rewards) - 1)
        buffer = EpisodeBuffer(
            seed=start,
            observations=stacked,
            actions=np.stack(actions),
            rewards=rewards,
            terminations=[*going_on, bool(terminated)],
            truncations=[*going_on, bool(truncated)],
        )
        episodes.append(buffer)
    return episodes


def episode_edges(steps: Mapping[str, np.ndarray]) -> list[int]:
    """Return the first step of each episode, and the number of steps.

    Minari stores each observation once, so an episode ends also where the next observation of a
    step is not the observation of the step after it.

    Args:
        steps: ``obs``, ``obs_next`` (N, O), ``act`` (N, A), ``rew``, ``terminated``, ``truncated``
            (N,), as a run with ``online=explore`` collects them.
    """
    obs, obs_next = steps["obs"], steps["obs_next"]
    ends = np.flatnonzero(steps["terminated"] | steps["truncated"]) + 1
    edges = [0]
    for first, last in pairwise(np.unique([0, *ends, len(obs)]).tolist()):
        is_jump = (obs_next[first : last - 1] != obs[first + 1 : last]).any(1)
        edges += [*(np.flatnonzero(is_jump) + first + 1).tolist(), last]
    return edges


def as_episodes(steps: Mapping[str, np.ndarray]) -> "Iterator[EpisodeBuffer]":
    """Divide consecutive steps at their :func:`episode_edges` into Minari's buffers.

    The last episode, and those whose steps have no flag, are marked as truncated.
    """
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for first, last in pairwise(episode_edges(steps)):
        part = {name: array[first:last] for name, array in steps.items()}
        truncated = part["truncated"].copy()
        truncated[-1] |= not part["terminated"][-1]
        yield EpisodeBuffer(
            observations=np.concatenate([part["obs"], part["obs_next"][-1:]]),
            actions=part["act"],
            rewards=part["rew"].tolist(),
            terminations=part["terminated"].tolist(),
            truncations=truncated.tolist(),
        )


def notes(episodes: "Iterable[EpisodeBuffer]") -> tuple[str, ...]:
    """Return notes on what float32, in which training computes, loses of recorded numbers."""
    resolution = Resolution()
    for episode in episodes:
        recorded = {"obs": episode.observations, "act": episode.actions, "rew": episode.rewards}
        resolution.see({name: np.asarray(values) for name, values in recorded.items()})
    return resolution.notes()


def check_room(
    observation_space: gym.Space, action_space: gym.Space, num_steps: int, num_episodes: int
) -> None:
    """Check that the disk has room for a data set.

    Raises:
        CannotWrite: if it has not.
        DataError: the folder of data sets cannot be written.
    """
    step = _STEP_BYTES + sum(
        prod(space.shape or ()) * np.dtype(space.dtype).itemsize
        for space in (observation_space, action_space)
    )
    minari_store.check_room(num_steps * step + num_episodes * _EPISODE_BYTES)


def save(
    dataset_id: str,
    episodes: "Iterable[EpisodeBuffer]",
    task: tuple[gym.Space, gym.Space, EnvSpec | None],
    *,
    algorithm_name: str,
    description: str,
    provenance: Mapping[str, Any] | None = None,
    reference_scores: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Store episodes, one by one, as a Minari data set, atomically; :func:`check_room` first.

    Args:
        dataset_id: ``namespace/name-v0``, in the folder ``$MINARI_DATASETS_PATH``.
        episodes: from :func:`collect` or :func:`as_episodes`.
        task: spaces of observations and actions, and the environment of later evaluations.
        algorithm_name: the behaviour policy's name, for the metadata.
        description: a description, for the metadata.
        provenance: how the data were made, in plain values, for :func:`minari_store.provenance`.
        reference_scores: mean returns of a (random, expert) policy.
        overwrite: replace a data set of this id.

    Raises:
        DataError: the id is malformed or taken, or the folder cannot be written.
    """
    observation_space, action_space, env_spec = task

    def write(folder: Path) -> None:
        import minari
        from minari.dataset.minari_storage import MinariStorage

        spec = None if env_spec is None else importable(env_spec)
        storage = MinariStorage.new(folder, observation_space, action_space, spec)
        metadata: dict[str, Any] = {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "algorithm_name": algorithm_name,
            "description": description,
            minari_store.PROVENANCE: provenance,
        }
        if reference_scores is not None:
            metadata |= dict(zip(("ref_min_score", "ref_max_score"), reference_scores, strict=True))
        storage.update_metadata(metadata)
        storage.update_episodes(episodes)

    minari_store.publish(dataset_id, write, overwrite=overwrite)
