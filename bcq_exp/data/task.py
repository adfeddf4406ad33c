"""The task of a policy: spaces, evaluation environment, scale of returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from bcq_exp.data import env_scores, env_specs, environments
from bcq_exp.data.spaces import ActionSpace, Leaf
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Task(ABC):
    """The spaces and scale of an environment, with a name.

    Args:
        id: the name in output and logs.
        observation_space: flat ``(O,)``.
        action_space: ``(A,)``, finite bounds; or Discrete.
        env_spec: the evaluation environment, None where neither data nor user names one that can be
            made here.
        env_text: the environment as the data name it, as :meth:`EnvSpec.to_json` text.
        reference_scores: mean returns of a (random, expert) policy, where known.
        leaves: the parts of a flat observation, in order; empty if it has no parts.
        summary: lines about the data to print before training.
    """

    id: str
    observation_space: Box
    action_space: ActionSpace
    env_spec: EnvSpec | None
    reference_scores: tuple[float, float] | None
    env_text: str | None = None
    leaves: tuple[Leaf, ...] = ()
    summary: tuple[str, ...] = ()

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The data's facts in a run's summary: id, content_hash, num_transitions, num_episodes,
        behaviour_return."""

    def normalized_score(self, ret: float) -> float | None:
        """``ret`` on the scale random = 0, expert = 100; None where the scale is not known."""
        return env_scores.normalized_score(ret, self.reference_scores)

    def make_env(self, **kwargs: Any) -> gym.Env:
        """Make an evaluation environment, with flat observations.

        Args:
            kwargs: keyword arguments of :func:`gymnasium.make`, such as ``render_mode``.

        Raises:
            DataError: no environment is named, it cannot be made, or does not fit the data.
        """
        spec = self.env_spec
        if spec is None and self.env_text is not None:
            spec = env_specs.parse_spec(self.id, self.env_text)  # raises the reason
        env = environments.make_raw(self.id, spec, **kwargs)
        leaves = self.leaves or (Leaf((), self.observation_space.shape[0]),)
        try:
            environments.check_fit(self.id, env, leaves, self.action_space)
        except DataError:
            env.close()
            raise
        return environments.flatten_env(env)

    @cached_property
    def environment_state(self) -> dict[str, Any]:
        """The state from which ``environments.from_state`` makes the environment."""
        spec = self.env_spec or self.env_text
        return environments.to_state(self.id, spec, self.observation_space, self.action_space)

    def lasting_facts(self) -> dict[str, Any]:
        """What must not change below a run, or between runs of a sweep, under the same keys.

        The data's hash is among :meth:`facts`.
        """
        scores = self.reference_scores
        return {
            "environment": environments.decisive(self.environment_state),
            "reference_scores": None if scores is None else [*scores],
        }


def load_task(group: Any) -> Any:
    """Load a ``dataset`` group: a validated data set, or an environment.

    Raises:
        UserError: any error of loading, in one line, which Hydra would wrap.
    """
    from hydra.errors import InstantiationException  # the data package alone does not need Hydra
    from hydra.utils import instantiate

    try:
        return instantiate(group, _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, UserError):
            raise
    raise cause  # not in the handler, where the wrapper would become the cause's own context
