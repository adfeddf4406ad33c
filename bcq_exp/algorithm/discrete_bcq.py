"""Discrete BCQ (Fujimoto, Conti, Ghavamzadeh & Pineau 2019, arXiv:1910.01708).

Double Q-learning whose greedy action is the best of those that a generative model of the data finds
likely enough beside the likeliest. Losses as in the authors' code (github.com/sfujim/BCQ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    Minimizer,
    OfflineAlgorithm,
    OverRuns,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.discrete import DiscretePolicy, cross_entropy, taken
from bcq_exp.algorithm.losses import StateToAction
from bcq_exp.algorithm.networks import broadcasting
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.watch import Watch, diverging_q
from bcq_exp.ranges import GAMMA, LOGITS_PENALTY, TAU, THRESHOLD, require


@dataclass(kw_only=True)
class DiscreteBCQTrainingStats(TrainingStats):
    """The Huber loss of Q, and the loss of the generative model."""

    critic_loss: float
    imitator_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked ones."""

    critic: StateToAction
    critic_target: StateToAction
    imitator: StateToAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    threshold: float | Tensor
    gamma: float | Tensor
    tau: float | Tensor
    logits_penalty: float | Tensor


def constrained(q: Tensor, logits: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """The constraint: values (B, n), -inf where G(a | s) / max_a' G(a' | s) <= threshold.

    The likeliest action is always allowed. Also the share of allowed actions, ().
    """
    ratio = (logits - logits.amax(-1, keepdim=True)).exp()
    is_forbidden = (ratio <= threshold) & (ratio < 1)
    return q.masked_fill(is_forbidden, -inf), 1 - is_forbidden.to(q.dtype).mean()


def target_value(
    critic: StateToAction,
    critic_target: StateToAction,
    imitator: StateToAction,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    *,
    threshold: float | Tensor,
    gamma: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """y = r + gamma (1 - terminated) Q'(s', a') (B,), a' the best allowed action by Q.

    Also the share of allowed actions. Call it without gradients.
    """
    q, allowed = constrained(critic(obs_next), imitator(obs_next), threshold)
    best = q.argmax(-1, keepdim=True)
    q_next = critic_target(obs_next).gather(-1, best).squeeze(-1)
    return rew + gamma * (1 - terminated) * q_next, allowed


def critic_loss(
    critic: StateToAction, obs: Tensor, act: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The Huber loss of recorded actions' values to a target (B,); also their mean."""
    q = taken(critic(obs), act)
    return smooth_l1_loss(q, target), q.mean()


def imitator_loss(
    imitator: StateToAction, obs: Tensor, act: Tensor, logits_penalty: float | Tensor
) -> Tensor:
    """Cross-entropy of recorded actions, and the weighted mean of the squared logits."""
    loss, logits = cross_entropy(imitator, obs, act)
    return loss + logits_penalty * logits.square().mean()


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Any,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target, allowed = over_runs(target_value)(
            nets.critic,
            nets.critic_target,
            nets.imitator,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            threshold=hyper.threshold,
            gamma=hyper.gamma,
        )
    loss, q_mean = over_runs(critic_loss)(nets.critic, batch.obs, batch.act, target)
    imitation = over_runs(imitator_loss)(nets.imitator, batch.obs, batch.act, hyper.logits_penalty)
    optimizers["critic"].apply(loss)
    optimizers["imitator"].apply(imitation)
    polyak_update((nets.critic_target,), (nets.critic,), hyper.tau)
    return {
        "critic_loss": loss.detach(),
        "imitator_loss": imitation.detach(),
        "q_mean": q_mean.detach(),
        "target_q_mean": target.mean(-1),
        "allowed_share": allowed,
    }


class DiscreteBCQPolicy(DiscretePolicy):
    """The best action by Q of those that the generative model allows.

    Args:
        critic: Q, (B, O) -> (B, n).
        imitator: the logits of G(. | s), (B, O) -> (B, n).
        threshold: see :class:`DiscreteBCQ`.
        options: as of :class:`~bcq_exp.algorithm.discrete.DiscretePolicy`.
    """

    def __init__(
        self, *, critic: nn.Module, imitator: nn.Module, threshold: float = 0.3, **options: Any
    ) -> None:
        super().__init__(**options)
        require("threshold", threshold, THRESHOLD)
        self.critic, self.imitator, self.threshold = critic, imitator, threshold

    def scores(self, obs: Tensor) -> Tensor:
        values, _ = constrained(self.critic(obs), self.imitator(obs), self.threshold)
        return values


class DiscreteBCQ(OfflineAlgorithm[DiscreteBCQPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """BCQ of discrete actions.

    The defaults are those of the authors' code for observations that are vectors.

    Args:
        policy: with the critic and the generative model that learn, and the threshold (tau in the
            paper): least probability of an allowed action as a share of the likeliest one's, in
            [0, 1]; 0 is double DQN, 1 behaviour cloning.
        critic_optim, imitator_optim: their optimizers.
        gamma: discount factor, in [0, 1].
        tau: share of the critic that its target takes each step, in (0, 1].
        logits_penalty: weight of the generative model's mean squared logit, at least 0.

    Raises:
        ValueError: if a number is out of its range.
    """

    action_spaces = (Discrete,)
    training_stats = DiscreteBCQTrainingStats
    diagnostics = ("q_mean", "target_q_mean", "allowed_share")
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: DiscreteBCQPolicy,
        critic_optim: OptimizerFactory,
        imitator_optim: OptimizerFactory,
        gamma: float = 0.99,
        tau: float = 0.005,
        logits_penalty: float = 0.01,
    ) -> None:
        super().__init__(policy=policy)
        require("gamma", gamma, GAMMA)
        require("tau", tau, TAU)
        require("logits_penalty", logits_penalty, LOGITS_PENALTY)
        self.gamma, self.tau, self.logits_penalty = gamma, tau, logits_penalty
        self.critic_target = self._add_lagged_network(policy.critic)
        self._optimizers["critic"] = optimizer_for(policy.critic, critic_optim)
        self._optimizers["imitator"] = optimizer_for(policy.imitator, imitator_optim)

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        policy: Mapping[str, Any],
        critic: Callable[..., nn.Module],
        imitator: Callable[..., nn.Module],
        critic_optim: OptimizerFactory,
        imitator_optim: OptimizerFactory,
        threshold: float,
        **hyperparameters: Any,
    ) -> DiscreteBCQ:
        acting = DiscreteBCQPolicy(
            critic=critic(**sizes), imitator=imitator(**sizes), threshold=threshold, **policy
        )
        optimizers = {"critic_optim": critic_optim, "imitator_optim": imitator_optim}
        return cls(policy=acting, **optimizers, **hyperparameters)

    @property
    def networks(self) -> Networks:
        return Networks(
            critic=broadcasting(self.policy.critic),
            critic_target=broadcasting(self.critic_target),
            imitator=broadcasting(self.policy.imitator),
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(self.policy.threshold, self.gamma, self.tau, self.logits_penalty)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return taken(self.policy.critic(obs), act)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (diverging_q("q_mean"),)
