"""TD3+BC (Fujimoto & Gu 2021, arXiv:2106.06860): TD3 whose actor is regularized towards the data.

TD3 (Fujimoto et al. 2018, arXiv:1802.09477) has twin critics, a smoothed target policy, and an
actor and targets that move every second step. ``trainer.normalize_obs`` normalizes
observations, without the 1e-3 that the authors add to standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import Optimizers, polyak_update
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import TD3BCHyperparameters
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import ActionRange, Actor, Critic
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.algorithm.twin_critics import (
    TwinCriticAlgorithm,
    TwinCriticTrainingStats,
    fit_critics,
)


@dataclass(kw_only=True)
class TD3BCTrainingStats(TwinCriticTrainingStats):
    """The losses of one update; the actor's is ``None`` where it did not learn."""

    actor_loss: float | None = None  # type: ignore[assignment]


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


class Networks(NamedTuple):
    """The networks of a run, as the equations call them, or of K runs, stacked."""

    actor: StateToAction
    critic: StateAction
    critic2: StateAction
    actor_target: StateToAction
    critic_target: StateAction
    critic2_target: StateAction
    smoothing: Smoothing


class Noise(NamedTuple):
    """Standard normals (B, A) of the target policy's smoothing."""

    smoothing: Tensor


@per_run
def target_value(
    actor_target: StateToAction,
    critic_target: StateAction,
    critic2_target: StateAction,
    smoothing: Smoothing,
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
    q = losses.lower_q(critic_target, critic2_target, obs_next, act)
    return losses.bellman_target(q, rew, terminated, gamma).unsqueeze(-1)


@per_run
def actor_loss(
    actor: StateToAction, critic: StateAction, obs: Tensor, act: Tensor, alpha: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 4 and 5: -lambda Q(s, pi(s)) + (pi(s) - a)^2, lambda = alpha / mean |Q|.

    Returns the loss, its second part, and lambda, which passes no gradient.
    """
    pi = actor(obs)
    q = critic(obs, pi)
    lmbda = alpha / q.abs().mean().detach()
    bc_loss = mse_loss(pi, act)
    return -lmbda * q.mean() + bc_loss, bc_loss, lmbda


def critic_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: TD3BCHyperparameters,
    batch: Batch,
    noise: Noise,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step` of the critics alone."""
    with torch.no_grad():
        target = target_value(
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
    return fit_critics(nets, optimizers, batch, target)


def critic_and_actor_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: TD3BCHyperparameters,
    batch: Batch,
    noise: Noise,
) -> dict[str, Tensor]:
    """The second of two (policy_freq = 2): critics, then actor, then targets."""
    metrics = critic_step(nets, optimizers, hyper, batch, noise)
    with frozen(nets.critic):
        loss, bc_loss, lmbda = actor_loss(
            nets.actor, nets.critic, batch.obs, batch.act, hyper.alpha
        )
        optimizers["actor"].apply(loss)
    polyak_update(
        (nets.actor_target, nets.critic_target, nets.critic2_target),
        (nets.actor, nets.critic, nets.critic2),
        hyper.tau,
    )
    return metrics | {"actor_loss": loss, "bc_loss": bc_loss, "lambda": lmbda}


class TD3BC(TwinCriticAlgorithm[DeterministicPolicy]):
    """TD3+BC.

    Args:
        policy: with the actor that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        actor_optim: optimizer of the actor.
        critic_optim: optimizer of each critic.
        smoothing: bounds of the target policy's smoothed actions, in the policy's unit.
        hyperparameters: of :class:`TD3BCHyperparameters`.

    Raises:
        ValueError: if a number is out of its range, or no weight of the second critic can be drawn.
    """

    training_stats = TD3BCTrainingStats
    diagnostics = ("bc_loss", "lambda", "q1_mean", "q2_mean", "target_q_mean")
    Hyperparameters = TD3BCHyperparameters
    reads = ("policy", "actor", "critic", "actor_optim", "critic_optim")
    network_kinds = {"actor": Actor, "critic": Critic}
    steps = (critic_step, critic_and_actor_step)

    def __init__(
        self,
        *,
        policy: DeterministicPolicy,
        critic: nn.Module,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        smoothing: Smoothing,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, critic=critic, critic_optim=critic_optim, **hyperparameters)
        self.actor_target = self._add_lagged_network(policy.actor)
        self.smoothing = smoothing
        self.optimizers["actor"] = optimizer_for(policy.actor, actor_optim)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        actor = parts.network("actor", **parts.bounds)
        return cls(
            policy=DeterministicPolicy(actor=actor, **parts.policy),
            critic=parts.network("critic"),
            actor_optim=parts.optimizer("actor_optim"),
            critic_optim=parts.optimizer("critic_optim"),
            smoothing=parts.place(Smoothing(**parts.bounds)),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=self.policy.actor,
            actor_target=self.actor_target,
            smoothing=self.smoothing,
            **self.critics,
        )

    def noise_shapes(self, batch_size: int) -> Any:
        shapes: dict[str, Any] = {"smoothing": (batch_size, *self.smoothing.low.shape)}
        return Noise(**shapes)
