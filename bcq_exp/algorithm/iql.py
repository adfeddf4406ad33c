"""Implicit Q-learning (Kostrikov et al. 2021, arXiv:2110.06169): no value of an unseen action. ::

    L_V  = E_(s, a)       [ L2^tau(min_i Q'_i(s, a) - V(s)) ],   L2^tau(u) = |tau - 1(u < 0)| u^2
    L_Q  = E_(s, a, r, s')[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]
    L_pi = E_(s, a)       [ -min(exp(beta (min_i Q'_i(s, a) - V(s))), 100) log pi(a | s) ]

Equations 5 to 7, with the paper's expectile tau and inverse temperature beta. Where its algorithm 1
leaves a choice, a step follows the authors' code: V moves first, the losses of actor and critics
have the new V, and the advantage has the target critics. The policy is a Gaussian around a tanh,
its standard deviation independent of the state.

The authors rescale rewards before training (Gym locomotion: 1000 / (best - worst return of an
episode); AntMaze: r - 1) and use dropout for Adroit and Kitchen. Neither is done here:
``temperature`` refers to rewards as recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import Watch, diverging_q
from bcq_exp.algorithm.base import Optimizers, polyak_update
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import IQLHyperparameters
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.networks import (
    Critic,
    GaussianActor,
    SquashedMean,
    StateCritic,
    UnitActions,
)
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import GaussianPolicy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.algorithm.twin_critics import (
    TwinCriticAlgorithm,
    TwinCriticTrainingStats,
    fit_critics,
)

LOG_STD_RANGE = (-5.0, 2.0)  # the authors' clamp


@dataclass(kw_only=True)
class IQLTrainingStats(TwinCriticTrainingStats):
    """The losses of one update."""

    value_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked runs.

    ``actor`` returns means and log std (B, 2 A), ``value`` V(s) (B, 1).
    """

    actor: StateToAction
    value: StateToAction
    critic: StateAction
    critic2: StateAction
    critic_target: StateAction
    critic2_target: StateAction
    unit: StateToAction


class Weights(NamedTuple):
    """Weights of the actor's imitation: A(s, a) and min(exp(beta A), clip), (B,), and two means."""

    weight: Tensor
    advantage_mean: Tensor
    clip_fraction: Tensor


@per_run
def value_loss(
    value: StateToAction, obs: Tensor, q: Tensor, expectile: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 5: the expectile regression of V to ``q`` (B,); also the mean of V."""
    v = value(obs).squeeze(-1)
    u = q - v
    weight = (expectile - (u < 0).to(u.dtype)).abs()
    return (weight * u.square()).mean(), v.mean()


@per_run
def advantage_weights(
    value: StateToAction,
    obs: Tensor,
    q: Tensor,
    temperature: float | Tensor,
    advantage_clip: float | Tensor,
) -> Weights:
    """The weights of equation 7, from ``q`` (B,); call it without gradients."""
    advantage = q - value(obs).squeeze(-1)
    weight = (temperature * advantage).exp().clamp(max=advantage_clip)
    clipped = (weight >= advantage_clip).to(weight.dtype)
    return Weights(weight, advantage.mean(), clipped.mean())


@per_run
def actor_loss(
    actor: StateToAction, unit: StateToAction, obs: Tensor, act: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 7: minus the weighted log likelihood of the data; also the mean std.

    Densities and standard deviations are of actions in units of half their range.
    """
    mean, log_std = actor(obs).chunk(2, -1)
    log_std = log_std.clamp(*LOG_STD_RANGE)
    z = (unit(act) - mean.tanh()) / log_std.exp()
    log_prob = (-z.square() / 2 - log_std - math.log(2 * math.pi) / 2).sum(-1)
    return -(weight * log_prob).mean(), log_std.exp().mean()


@per_run
def target_value(
    value: StateToAction,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y (B, 1) = r + gamma (1 - terminated) V(s'), of equation 6."""
    v = value(obs_next).squeeze(-1)
    return losses.bellman_target(v, rew, terminated, gamma).unsqueeze(-1)


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: IQLHyperparameters,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`: V, actor, critics, targets."""
    with torch.no_grad():
        q = losses.lower_q(nets.critic_target, nets.critic2_target, batch.obs, batch.act)
    v_loss, v_mean = value_loss(nets.value, batch.obs, q, hyper.expectile)
    optimizers["value"].apply(v_loss)
    with torch.no_grad():
        weights = advantage_weights(
            nets.value, batch.obs, q, hyper.temperature, hyper.advantage_clip
        )
        target = target_value(nets.value, batch.obs_next, batch.rew, batch.terminated, hyper.gamma)
    pi_loss, std_mean = actor_loss(nets.actor, nets.unit, batch.obs, batch.act, weights.weight)
    optimizers["actor"].apply(pi_loss)
    metrics = fit_critics(nets, optimizers, batch, target)
    polyak_update((nets.critic_target, nets.critic2_target), (nets.critic, nets.critic2), hyper.tau)
    return metrics | {
        "actor_loss": pi_loss,
        "value_loss": v_loss,
        "v_mean": v_mean,
        "advantage_mean": weights.advantage_mean,
        "weight_mean": weights.weight.mean(-1),
        "clip_fraction": weights.clip_fraction,
        "std_mean": std_mean,
    }


class IQL(TwinCriticAlgorithm[GaussianPolicy]):
    """Implicit Q-learning.

    Args:
        policy: with the Gaussian that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        value: V(s), ``(obs,) -> (B, 1)``.
        actor_optim: optimizer of the actor.
        critic_optim: optimizer of each critic.
        value_optim: optimizer of V.
        hyperparameters: of :class:`IQLHyperparameters`.

    Raises:
        ValueError: if a number is out of its range, or no weight of the second critic can be drawn.
    """

    training_stats = IQLTrainingStats
    diagnostics = (
        "q1_mean",
        "q2_mean",
        "v_mean",
        "target_q_mean",
        "advantage_mean",
        "weight_mean",
        "clip_fraction",
        "std_mean",
    )
    watches = (
        diverging_q("q1_mean", "q2_mean", "v_mean"),
        Watch("clipped advantages", ("clip_fraction",), above=0.5),
    )
    Hyperparameters = IQLHyperparameters
    reads = (
        "policy",
        "actor",
        "critic",
        "value",
        "actor_optim",
        "critic_optim",
        "value_optim",
    )
    network_kinds = {"actor": GaussianActor, "critic": Critic, "value": StateCritic}
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: GaussianPolicy,
        critic: nn.Module,
        value: nn.Module,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        value_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, critic=critic, critic_optim=critic_optim, **hyperparameters)
        self.state_value = value
        self.optimizers |= {
            "actor": optimizer_for(policy.actor.gaussian, actor_optim),
            "value": optimizer_for(value, value_optim),
        }

    @classmethod
    def build(cls, parts: Parts) -> Self:
        mean = SquashedMean(parts.network("actor"), parts.place(UnitActions(**parts.bounds)))
        return cls(
            policy=GaussianPolicy(actor=mean, **parts.policy),
            critic=parts.network("critic"),
            value=parts.network("value", act_dim=1),
            actor_optim=parts.optimizer("actor_optim"),
            critic_optim=parts.optimizer("critic_optim"),
            value_optim=parts.optimizer("value_optim"),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=self.policy.actor.gaussian,
            value=self.state_value,
            unit=self.policy.actor.unit,
            **self.critics,
        )
