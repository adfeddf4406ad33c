"""Data that is collected during training (``online=explore``)."""

import logging
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data import behaviour, env_scores, env_specs, environments
from bcq_exp.data.spaces import check_continuous, flat_box, observation_leaves
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import DataError

_log = logging.getLogger(__name__)
_TRIED = 32  # steps of an environment that are checked


@dataclass(frozen=True, kw_only=True, eq=False)
class Exploration(Task):
    """An environment and its exploration, as of the BCQ paper's behaviour agents.

    Args:
        start_steps: first steps with uniformly random actions, before learning begins.
        noise_std: standard deviation of the Gaussian added to the policy's actions from then on, in
            units of half the action's range.
    """

    action_space: Box
    start_steps: int
    noise_std: float

    def facts(self) -> dict[str, Any]:
        nothing_yet = dict.fromkeys(("content_hash", "behaviour_return"))
        return {"id": self.id, "num_transitions": 0, "num_episodes": 0, **nothing_yet}


def explore(env: str, *, start_steps: int, noise_std: float) -> Exploration:
    """Make an environment to learn in.

    Args:
        env: Gymnasium's id, or ``module:id``.
        start_steps, noise_std: see :class:`Exploration`.

    Raises:
        DataError: Gymnasium does not know the id, cannot make it, or its spaces are unusable.
    """
    spec = env_specs.find_spec(f"online/{env}", env)
    with closing(environments.make_raw(f"online/{env}", spec)) as made:
        if isinstance(made.action_space, Discrete):
            raise DataError(
                f"online.env={env}: online=explore needs continuous actions, and the environment's "
                f"are {made.action_space}"
            )
        leaves = observation_leaves(env, made.observation_space)
        action_space = check_continuous(env, made.action_space)
        for note in _first_notes(made, action_space):
            _warn(spec.id, note)
        return Exploration(
            id=f"online/{spec.id}",
            observation_space=flat_box(made.observation_space),
            action_space=action_space,
            env_spec=spec,
            reference_scores=env_scores.reference_scores(spec),
            leaves=leaves,
            start_steps=start_steps,
            noise_std=noise_std,
        )


def _first_notes(env: gym.Env, action_space: Box) -> tuple[str, ...]:
    """Try the first steps; return notes on what float32 loses of them."""
    flat = environments.flatten_env(env)
    if flat.observation_space.dtype == np.float32:  # nothing to lose
        return ()
    with suppress(Exception):  # which training meets too, and reports
        random = behaviour.UniformRandom(action_space)
        return behaviour.notes(behaviour.collect(flat, random, num_steps=_TRIED, seed=0))
    return ()


@cache
def _warn(env: str, note: str) -> None:
    """Log a note on an environment, once for all runs of this process."""
    _log.warning("environment %r: %s", env, note)
