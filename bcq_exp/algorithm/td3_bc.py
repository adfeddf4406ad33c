"""TD3+BC (Fujimoto & Gu 2021, arXiv:2106.06860): TD3 whose actor is regularized towards the data.

TD3 (Fujimoto et al. 2018, arXiv:1802.09477) is twin critics, a smoothed target policy, and an actor
and targets that move every second step. Observations are normalized by ``trainer.normalize_obs``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

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
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import ActionRange, broadcasting, redrawn
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.watch import Watch, diverging_q
from bcq_exp.ranges import ALPHA, GAMMA, NOISE_CLIP, POLICY_NOISE, TAU, require


@dataclass(kw_only=True)
class TD3BCTrainingStats(TrainingStats):
    """The losses of one update; the actor's is ``None`` where it did not learn."""

    actor_loss: float | None = None
    critic1_loss: float
    critic2_loss: float


class Smoothing(ActionRange):
    """Target policy smoothing: the action with clipped noise added, kept in the actions' range.

    Noise and its clip are in units of half the range, which the papers' actions of [-1, 1] have.
    """

    def forward(
        self, act: Tensor, normal: Tensor, noise: float | Tensor, clip: float | Tensor
    ) -> Tensor:
        """``act`` and the standard normals ``normal`` are (B, A)."""
        epsilon = (noise * normal).clamp(-clip, clip)  # type: ignore[arg-type]
        return (act + self.scale * epsilon).clamp(self.low, self.high)


class SmoothedAction(Protocol):
    """:class:`Smoothing` as it is called, of a run or of K stacked ones."""

    def __call__(
        self, act: Tensor, normal: Tensor, noise: float | Tensor, clip: float | Tensor, /
    ) -> Tensor: ...


class Networks(NamedTuple):
    """The networks of a run, as the equations call them, or of K runs, stacked."""

    actor: StateToAction
    critic: StateAction
    critic2: StateAction
    actor_target: StateToAction
    critic_target: StateAction
    critic2_target: StateAction
    smoothing: SmoothedAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    alpha: float | Tensor
    policy_noise: float | Tensor
    noise_clip: float | Tensor
    tau: float | Tensor
    gamma: float | Tensor


class Noise(NamedTuple):
    """Standard normals (B, A) of the target policy's smoothing."""

    smoothing: Tensor


def target_value(
    actor_target: StateToAction,
    critic_target: StateAction,
    critic2_target: StateAction,
    smoothing: SmoothedAction,
    normal: Tensor,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    policy_noise: float | Tensor,
    noise_clip: float | Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y (B, 1) = r + gamma min_i Q'_i(s', clip(pi'(s') + clip(eps, -c, c))), eps ~ N(0, sigma)."""
    act = smoothing(actor_target(obs_next), normal, policy_noise, noise_clip)
    q = critic_target(obs_next, act).minimum(critic2_target(obs_next, act)).squeeze(-1)
    return (rew + gamma * (1 - terminated) * q).unsqueeze(-1)


def actor_loss(
    actor: StateToAction, critic: StateAction, obs: Tensor, act: Tensor, alpha: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 4 and 5: -lambda Q(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q|.

    The loss, its second part, and lambda, which passes no gradient.
    """
    pi = actor(obs)
    q = critic(obs, pi)
    lmbda = alpha / q.abs().mean().detach()
    bc_loss = mse_loss(pi, act)
    return -lmbda * q.mean() + bc_loss, bc_loss, lmbda


def critic_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Noise,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step` of the critics alone."""
    with torch.no_grad():
        target = over_runs(target_value)(
            nets.actor_target,
            nets.critic_target,
            nets.critic2_target,
            nets.smoothing,
            noise.smoothing,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.policy_noise,
            hyper.noise_clip,
            hyper.gamma,
        )
    loss1, q1_mean = over_runs(losses.critic_loss)(nets.critic, batch.obs, batch.act, target)
    loss2, q2_mean = over_runs(losses.critic_loss)(nets.critic2, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss1)
    optimizers["critic2"].apply(loss2)
    return {
        "critic1_loss": loss1.detach(),
        "critic2_loss": loss2.detach(),
        "q1_mean": q1_mean.detach(),
        "q2_mean": q2_mean.detach(),
        "target_q_mean": target.mean((-2, -1)),
    }


def critic_and_actor_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Noise,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """The second of two (policy_freq = 2): critics, then actor, then targets."""
    metrics = critic_step(nets, optimizers, hyper, batch, noise, over_runs)
    with frozen(nets.critic):
        loss, bc_loss, lmbda = over_runs(actor_loss)(
            nets.actor, nets.critic, batch.obs, batch.act, hyper.alpha
        )
        optimizers["actor"].apply(loss)
    polyak_update(
        (nets.actor_target, nets.critic_target, nets.critic2_target),
        (nets.actor, nets.critic, nets.critic2),
        hyper.tau,
    )
    return metrics | {"actor_loss": loss.detach(), "bc_loss": bc_loss.detach(), "lambda": lmbda}


class TD3BC(OfflineAlgorithm[DeterministicPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """TD3+BC.

    Args:
        policy: with the actor that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        actor_optim: optimizer of the actor.
        critic_optim: optimizer of each critic.
        smoothing: bounds of the target policy's smoothed actions, in the policy's unit.
        alpha: weight of the value beside the imitation, at least 0.
        policy_noise: standard deviation of the target policy's noise, at least 0; in units of half
            the actions' range.
        noise_clip: the noise is clipped to plus and minus this, at least 0, in the same units.
        tau: share of the source that a target network takes whenever it moves, in (0, 1].
        gamma: discount factor, in [0, 1].

    Raises:
        ValueError: if a number is out of its range, or no weight of the second critic can be drawn.
    """

    training_stats = TD3BCTrainingStats
    diagnostics = ("bc_loss", "lambda", "q1_mean", "q2_mean", "target_q_mean")
    steps = (critic_step, critic_and_actor_step)

    def __init__(
        self,
        *,
        policy: DeterministicPolicy,
        critic: nn.Module,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        smoothing: Smoothing,
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        tau: float = 0.005,
        gamma: float = 0.99,
    ) -> None:
        super().__init__(policy=policy)
        require("alpha", alpha, ALPHA)
        require("policy_noise", policy_noise, POLICY_NOISE)
        require("noise_clip", noise_clip, NOISE_CLIP)
        require("tau", tau, TAU)
        require("gamma", gamma, GAMMA)
        self.alpha, self.policy_noise, self.noise_clip = alpha, policy_noise, noise_clip
        self.tau, self.gamma = tau, gamma
        self.critic, self.critic2 = critic, redrawn(critic)
        self.actor_target = self._add_lagged_network(policy.actor)
        self.critic_target = self._add_lagged_network(self.critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self.smoothing = smoothing
        self._optimizers = {
            "actor": optimizer_for(policy.actor, actor_optim),
            "critic": optimizer_for(self.critic, critic_optim),
            "critic2": optimizer_for(self.critic2, critic_optim),
        }

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        bounds: Mapping[str, Any],
        place: Callable[[Smoothing], Smoothing],
        policy: Mapping[str, Any],
        actor: Callable[..., nn.Module],
        critic: Callable[..., nn.Module],
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> TD3BC:
        return cls(
            policy=DeterministicPolicy(actor=actor(**sizes, **bounds), **policy),
            critic=critic(**sizes),
            actor_optim=actor_optim,
            critic_optim=critic_optim,
            smoothing=place(Smoothing(**bounds)),
            **hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=broadcasting(self.policy.actor),
            critic=broadcasting(self.critic),
            critic2=broadcasting(self.critic2),
            actor_target=broadcasting(self.actor_target),
            critic_target=broadcasting(self.critic_target),
            critic2_target=broadcasting(self.critic2_target),
            smoothing=self.smoothing,
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(
            alpha=self.alpha,
            policy_noise=self.policy_noise,
            noise_clip=self.noise_clip,
            tau=self.tau,
            gamma=self.gamma,
        )

    def noise_shapes(self, batch_size: int) -> Any:
        shapes: dict[str, Any] = {"smoothing": (batch_size, *self.smoothing.low.shape)}
        return Noise(**shapes)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (diverging_q("q1_mean", "q2_mean"),)
