"""Policies of discrete actions, and the equations that their algorithms share.

A network of discrete actions has n outputs for a state: values Q(s, .), or logits. Recorded actions
come as indices 0 to n - 1, (B, 1) in the dtype of the other columns.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor
from torch.nn.functional import one_hot

from bcq_exp.algorithm.actions import ActionIndex
from bcq_exp.algorithm.losses import StateToAction
from bcq_exp.algorithm.mlp import in_eval_mode
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.stacking import per_run


class DiscretePolicy(Policy):
    """Takes the action of the largest score.

    Args:
        action_space: Discrete, of n actions.
        observation_space: the space of observations, if known.

    Raises:
        TypeError: if the action space is not Discrete.
    """

    _action_map: ActionIndex

    def __init__(self, *, action_space: Space, observation_space: Space | None = None) -> None:
        super().__init__(action_space=action_space, observation_space=observation_space)

    def _make_action_map(self) -> ActionIndex:
        return ActionIndex(self.action_space)

    @abstractmethod
    def scores(self, obs: Tensor) -> Tensor:
        """Return the scores that actions are chosen by, (B, O) -> (B, n)."""

    @torch.no_grad()
    def action_probabilities(self, obs: Any) -> Tensor:
        """pi(a | s) for observations (B, O): (B, n), one at the action taken."""
        obs = self.as_tensor(obs)
        self.check_obs(obs)
        with in_eval_mode(self):
            scores = self.scores(obs)
        return one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)

    def chosen(self, scores: Tensor) -> Tensor:
        """Return the best actions by scores (B, n): the environment's integers (B,)."""
        return scores.argmax(-1) + self._action_map.start

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        """Return the environment's integers (B,)."""
        return self.chosen(self.scores(obs))


def taken(values: Tensor, act: Tensor) -> Tensor:
    """The entries (B,) of ``values`` (B, n) at the actions' indices (B, 1)."""
    return values.gather(-1, act.long()).squeeze(-1)


@per_run
def cross_entropy(model: StateToAction, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """Behaviour cloning: the mean of -log G(a | s) of recorded actions; also the logits (B, n)."""
    logits = model(obs)
    return -taken(logits.log_softmax(-1), act).mean(), logits
