"""Discrete BCQ (Fujimoto, Conti, Ghavamzadeh & Pineau 2019, arXiv:1910.01708).

Double Q-learning whose greedy action is the best of those that a generative model of the data finds
likely enough relative to the likeliest. Losses as in the authors' code (github.com/sfujim/BCQ).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, Self

import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from bcq_exp.algorithm.alerts import diverging_q
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.discrete import DiscretePolicy, cross_entropy, taken
from bcq_exp.algorithm.hyperparameters import DiscreteBCQHyperparameters
from bcq_exp.algorithm.losses import HasParameters, StateToAction, bellman_target
from bcq_exp.algorithm.networks import Counter, StateCritic
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.ranges import THRESHOLD, require


@dataclass(kw_only=True)
class DiscreteBCQTrainingStats(TrainingStats):
    """The Huber loss of Q, and the loss of the generative model."""

    critic_loss: float
    imitator_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked runs."""

    critic: StateToAction
    critic_target: StateToAction
    imitator: StateToAction
    counter: HasParameters


def constrained(q: Tensor, logits: Tensor, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
    """Apply the constraint: values (B, n), -inf where G(a | s) / max_a' G(a' | s) <= threshold.

    The likeliest action is always allowed. Also returns the share of allowed actions, ().
    """
    ratio = (logits - logits.amax(-1, keepdim=True)).exp()
    is_forbidden = (ratio <= threshold) & (ratio < 1)
    return q.masked_fill(is_forbidden, -inf), 1 - is_forbidden.to(q.dtype).mean()


@per_run
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

    Also returns the share of allowed actions. Call it without gradients.
    """
    q, allowed = constrained(critic(obs_next), imitator(obs_next), threshold)
    best = q.argmax(-1, keepdim=True)
    q_next = critic_target(obs_next).gather(-1, best).squeeze(-1)
    return bellman_target(q_next, rew, terminated, gamma), allowed


@per_run
def critic_loss(
    critic: StateToAction, obs: Tensor, act: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The Huber loss of recorded actions' values to a target (B,); also their mean."""
    q = taken(critic(obs), act)
    return smooth_l1_loss(q, target), q.mean()


@per_run
def imitator_loss(
    imitator: StateToAction, obs: Tensor, act: Tensor, logits_penalty: float | Tensor
) -> Tensor:
    """Cross-entropy of recorded actions, and the weighted mean of the squared logits."""
    loss, logits = cross_entropy(imitator, obs, act)
    return loss + logits_penalty * logits.square().mean()


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: DiscreteBCQHyperparameters,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target, allowed = target_value(
            nets.critic,
            nets.critic_target,
            nets.imitator,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            threshold=hyper.threshold,
            gamma=hyper.gamma,
        )
    loss, q_mean = critic_loss(nets.critic, batch.obs, batch.act, target)
    imitation = imitator_loss(nets.imitator, batch.obs, batch.act, hyper.logits_penalty)
    optimizers["critic"].apply(loss)
    optimizers["imitator"].apply(imitation)
    polyak_update((nets.critic_target,), (nets.critic,), _share(nets.counter, hyper))
    return {
        "critic_loss": loss,
        "imitator_loss": imitation,
        "q_mean": q_mean,
        "target_q_mean": target.mean(-1),
        "allowed_share": allowed,
    }


@torch.no_grad()
def _share(counter: HasParameters, hyper: DiscreteBCQHyperparameters) -> float | Tensor:
    """The Polyak coefficient of this step."""
    if hyper.target_update_freq == 1:
        return hyper.tau
    (count,) = counter.parameters()
    count.copy_((count + 1).remainder(hyper.target_update_freq))
    return hyper.tau * (count == 0).to(count.dtype)


class DiscreteBCQPolicy(DiscretePolicy):
    """The best action by Q of those that the generative model allows.

    Args:
        critic: Q, (B, O) -> (B, n).
        imitator: the logits of G(. | s), (B, O) -> (B, n).
        threshold: see :class:`DiscreteBCQHyperparameters`.
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
        policy: with the critic, the generative model and the threshold.
        critic_optim, imitator_optim: their optimizers.
        hyperparameters: of :class:`DiscreteBCQHyperparameters`; ``threshold`` is the policy's.

    Raises:
        ValueError: if a number is out of its range.
    """

    action_spaces = (Discrete,)
    training_stats = DiscreteBCQTrainingStats
    diagnostics = ("q_mean", "target_q_mean", "allowed_share")
    watches = (diverging_q("q_mean"),)
    Hyperparameters = DiscreteBCQHyperparameters
    reads = ("critic", "imitator", "critic_optim", "imitator_optim")
    network_kinds = {"critic": StateCritic, "imitator": StateCritic}
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: DiscreteBCQPolicy,
        critic_optim: OptimizerFactory,
        imitator_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, **{**hyperparameters, "threshold": policy.threshold})
        self.critic_target = self._add_lagged_network(policy.critic)
        self.counter = Counter().to(next(policy.critic.parameters()))
        self.optimizers["critic"] = optimizer_for(policy.critic, critic_optim)
        self.optimizers["imitator"] = optimizer_for(policy.imitator, imitator_optim)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        policy = DiscreteBCQPolicy(
            critic=parts.network("critic"),
            imitator=parts.network("imitator"),
            threshold=parts.hyperparameters["threshold"],
            **parts.policy,
        )
        return cls(
            policy=policy,
            critic_optim=parts.optimizer("critic_optim"),
            imitator_optim=parts.optimizer("imitator_optim"),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        policy = self.policy
        return Networks(policy.critic, self.critic_target, policy.imitator, self.counter)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return taken(self.policy.critic(obs), act)
