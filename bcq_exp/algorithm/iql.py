"""Implicit Q-learning (Kostrikov et al. 2021, arXiv:2110.06169): no value of an unseen action.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    Minimizer,
    OfflineAlgorithm,
    OverRuns,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.networks import SquashedMean, UnitActions, broadcasting, redrawn
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.policy import GaussianPolicy
from bcq_exp.algorithm.watch import Watch, diverging_q
from bcq_exp.ranges import ADVANTAGE_CLIP, EXPECTILE, GAMMA, TAU, TEMPERATURE, require

LOG_STD_RANGE = (-5.0, 2.0)  # the authors' clamp


@dataclass(kw_only=True)
class IQLTrainingStats(TrainingStats):
    """The losses of one update."""

    actor_loss: float
    critic1_loss: float
    critic2_loss: float
    value_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked ones.

    ``actor`` returns means and log std (B, 2 A), ``value`` V(s) (B, 1).
    """

    actor: StateToAction
    value: StateToAction
    critic: StateAction
    critic2: StateAction
    critic_target: StateAction
    critic2_target: StateAction
    unit: StateToAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    expectile: float | Tensor
    temperature: float | Tensor
    advantage_clip: float | Tensor
    tau: float | Tensor
    gamma: float | Tensor


class Weights(NamedTuple):
    """What the actor imitates more: A(s, a) and min(exp(beta A), clip), (B,), and two means."""

    weight: Tensor
    advantage_mean: Tensor
    clip_fraction: Tensor


def lower_q(critic: StateAction, critic2: StateAction, obs: Tensor, act: Tensor) -> Tensor:
    """min_i Q_i(s, a), (B,)."""
    return critic(obs, act).minimum(critic2(obs, act)).squeeze(-1)


def value_loss(
    value: StateToAction, obs: Tensor, q: Tensor, expectile: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 5: the expectile regression of V to ``q`` (B,); also the mean of V."""
    v = value(obs).squeeze(-1)
    u = q - v
    weight = (expectile - (u < 0).to(u.dtype)).abs()
    return (weight * u.square()).mean(), v.mean()


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


def target_value(
    value: StateToAction,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y (B, 1) = r + gamma (1 - terminated) V(s'), of equation 6."""
    v = value(obs_next).squeeze(-1)
    return (rew + gamma * (1 - terminated) * v).unsqueeze(-1)


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Any,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`: V, actor, critics, targets."""
    with torch.no_grad():
        q = over_runs(lower_q)(nets.critic_target, nets.critic2_target, batch.obs, batch.act)
    v_loss, v_mean = over_runs(value_loss)(nets.value, batch.obs, q, hyper.expectile)
    optimizers["value"].apply(v_loss)
    with torch.no_grad():
        weights = over_runs(advantage_weights)(
            nets.value, batch.obs, q, hyper.temperature, hyper.advantage_clip
        )
        target = over_runs(target_value)(
            nets.value, batch.obs_next, batch.rew, batch.terminated, hyper.gamma
        )
    pi_loss, std_mean = over_runs(actor_loss)(
        nets.actor, nets.unit, batch.obs, batch.act, weights.weight
    )
    optimizers["actor"].apply(pi_loss)
    loss1, q1_mean = over_runs(losses.critic_loss)(nets.critic, batch.obs, batch.act, target)
    loss2, q2_mean = over_runs(losses.critic_loss)(nets.critic2, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss1)
    optimizers["critic2"].apply(loss2)
    polyak_update((nets.critic_target, nets.critic2_target), (nets.critic, nets.critic2), hyper.tau)
    return {
        "actor_loss": pi_loss.detach(),
        "critic1_loss": loss1.detach(),
        "critic2_loss": loss2.detach(),
        "value_loss": v_loss.detach(),
        "q1_mean": q1_mean.detach(),
        "q2_mean": q2_mean.detach(),
        "v_mean": v_mean.detach(),
        "target_q_mean": target.mean((-2, -1)),
        "advantage_mean": weights.advantage_mean,
        "weight_mean": weights.weight.mean(-1),
        "clip_fraction": weights.clip_fraction,
        "std_mean": std_mean.detach(),
    }


class IQL(OfflineAlgorithm[GaussianPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Implicit Q-learning.

    Args:
        policy: with the Gaussian that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        value: V(s), ``(obs,) -> (B, 1)``.
        actor_optim: optimizer of the actor.
        critic_optim: optimizer of each critic.
        value_optim: optimizer of V.
        expectile: the paper's tau, in (0, 1); 0.5 is the mean, towards 1 the best action of the
            data.
        temperature: the paper's inverse temperature beta, at least 0; 0 is behaviour cloning.
        advantage_clip: largest weight exp(beta A) of an action, above 0.
        tau: share of the source that a target network takes each step, in (0, 1].
        gamma: discount factor, in [0, 1].

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
        expectile: float = 0.7,
        temperature: float = 3.0,
        advantage_clip: float = 100.0,
        tau: float = 0.005,
        gamma: float = 0.99,
    ) -> None:
        super().__init__(policy=policy)
        require("expectile", expectile, EXPECTILE)
        require("temperature", temperature, TEMPERATURE)
        require("advantage_clip", advantage_clip, ADVANTAGE_CLIP)
        require("tau", tau, TAU)
        require("gamma", gamma, GAMMA)
        self.expectile, self.temperature, self.advantage_clip = (
            expectile,
            temperature,
            advantage_clip,
        )
        self.tau, self.gamma = tau, gamma
        self.state_value = value
        self.critic, self.critic2 = critic, redrawn(critic)
        self.critic_target = self._add_lagged_network(self.critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self._optimizers = {
            "actor": optimizer_for(policy.actor.gaussian, actor_optim),
            "critic": optimizer_for(self.critic, critic_optim),
            "critic2": optimizer_for(self.critic2, critic_optim),
            "value": optimizer_for(self.state_value, value_optim),
        }

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        bounds: Mapping[str, Any],
        place: Callable[[UnitActions], UnitActions],
        policy: Mapping[str, Any],
        actor: Callable[..., nn.Module],
        critic: Callable[..., nn.Module],
        value: Callable[..., nn.Module],
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        value_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> IQL:
        mean = SquashedMean(actor(**sizes), place(UnitActions(**bounds)))
        return cls(
            policy=GaussianPolicy(actor=mean, **policy),
            critic=critic(**sizes),
            value=value(obs_dim=sizes["obs_dim"], act_dim=1),
            actor_optim=actor_optim,
            critic_optim=critic_optim,
            value_optim=value_optim,
            **hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=broadcasting(self.policy.actor.gaussian),
            value=broadcasting(self.state_value),
            critic=broadcasting(self.critic),
            critic2=broadcasting(self.critic2),
            critic_target=broadcasting(self.critic_target),
            critic2_target=broadcasting(self.critic2_target),
            unit=self.policy.actor.unit,
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(
            expectile=self.expectile,
            temperature=self.temperature,
            advantage_clip=self.advantage_clip,
            tau=self.tau,
            gamma=self.gamma,
        )

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (
            diverging_q("q1_mean", "q2_mean", "v_mean"),
            Watch("clipped advantages", ("clip_fraction",), above=0.5),
        )
