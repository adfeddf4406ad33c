"""Batch-Constrained deep Q-learning (Fujimoto, Meger & Precup 2019, arXiv:1812.02900).

The equations are those of :mod:`bcq_exp.algorithm.losses`; here stand their order, what is
differentiated by which optimizer, and how the policy acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from gymnasium.spaces import Space
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
from bcq_exp.algorithm.losses import ConditionalVAE, StateAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import (
    broadcasting,
    kl_weight,
    latent_clip,
    latent_dim,
    redrawn,
)
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.watch import DEAD_VAE, Watch, diverging_q
from bcq_exp.ranges import COUNT, GAMMA, LMBDA, TAU, require

STUCK_SHARE = 0.95  # of the largest mean |perturbation| there can be


@dataclass(kw_only=True)
class BCQTrainingStats(TrainingStats):
    """The four losses of one update: equations 12 and 13, and the VAE's."""

    actor_loss: float
    critic1_loss: float
    critic2_loss: float
    vae_loss: float


class BCQPolicy(Policy):
    """Samples actions of the VAE, perturbs them, and takes the one the critic prefers.

    Args:
        actor_perturbation: ``(obs, act) -> act``, the perturbation network.
        critic: ``(obs, act) -> (B, 1)``, the first critic.
        vae: ``(obs, act) -> (reconstruction, mean, std)`` and ``decode(obs) -> act``. Each is
            passed a noise (B, L) of standard normals, ``(obs, act, eps)``, or a latent,
            ``(obs, latent)``, where its signature takes one and the VAE's ``latent_dim`` gives its
            width; otherwise it draws its own. ``latent_clip`` and ``kl_weight``, where the VAE has
            them, replace the paper's 0.5.
        forward_sampled_times: sampled actions a state in :meth:`forward` (the paper's 100).
        action_scaling: networks work in [-1, 1], scaled to the space's bounds when acting.
        action_bound_method: how actions are kept in range (:class:`ActionMap` has the table).

    Raises:
        TypeError: if the action space is no Box.
        ValueError: if ``forward_sampled_times`` is below 1.
    """

    def __init__(
        self,
        *,
        actor_perturbation: nn.Module,
        action_space: Space,
        critic: nn.Module,
        vae: nn.Module,
        forward_sampled_times: int = 100,
        observation_space: Space | None = None,
        action_scaling: bool = False,
        action_bound_method: Literal["clip", "tanh"] | None = "clip",
    ) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=action_scaling,
            action_bound_method=action_bound_method,
        )
        require("forward_sampled_times", forward_sampled_times, COUNT)
        self.actor_perturbation = actor_perturbation
        self.critic = critic
        self.vae = vae
        self.forward_sampled_times = forward_sampled_times

    @property
    def latent_clip(self) -> float:
        """Latents drawn from the prior are clipped to plus and minus this (0.5 in the paper)."""
        return latent_clip(self.vae)

    @property
    def normal_shape(self) -> tuple[int, ...]:
        return (self.forward_sampled_times, latent_dim(self.vae))

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        """Equation 11: one batched pass over all B * ``forward_sampled_times`` candidates."""
        assert normal is not None
        latent = normal.clamp(-self.latent_clip, self.latent_clip)
        networks = (self.vae, self.actor_perturbation, self.critic)
        best_action = partial(losses.best_action, *map(broadcasting, networks))
        return losses.in_parts(best_action, latent, obs)


class Networks(NamedTuple):
    """The networks of a run, as the losses call them, or of K runs, stacked."""

    vae: ConditionalVAE
    actor_perturbation: StateAction
    critic: StateAction
    critic2: StateAction
    actor_perturbation_target: StateAction
    critic_target: StateAction
    critic2_target: StateAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    gamma: float | Tensor
    lmbda: float | Tensor
    tau: float | Tensor
    latent_clip: float | Tensor
    kl_weight: float | Tensor


class Noise(NamedTuple):
    """Every random number of one gradient step: standard normals, before any clipping.

    Args:
        vae_eps: (B, L), the VAE's reparametrization.
        target: (B, n, L), the latents of the next state's sampled actions.
        actor: (B, L), the latents of the actions the actor perturbs.
    """

    vae_eps: Tensor
    target: Tensor
    actor: Tensor


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Noise,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """Algorithm 1, a :class:`~bcq_exp.algorithm.base.Step`: VAE, critics, actor, then targets."""
    obs, act = batch.obs, batch.act

    vae_loss = over_runs(losses.vae_loss)(nets.vae, obs, act, noise.vae_eps, hyper.kl_weight)
    optimizers["vae"].apply(vae_loss.loss)

    with torch.no_grad():
        target = over_runs(_target)(
            (nets.vae, nets.actor_perturbation_target, nets.critic_target, nets.critic2_target),
            noise.target,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
            hyper.lmbda,
            hyper.latent_clip,
        )
    critic1_loss, q1_mean = over_runs(losses.critic_loss)(nets.critic, obs, act, target)
    critic2_loss, q2_mean = over_runs(losses.critic_loss)(nets.critic2, obs, act, target)
    optimizers["critic"].apply(critic1_loss)
    optimizers["critic2"].apply(critic2_loss)

    with torch.no_grad():
        sampled = over_runs(_sampled)(nets.vae, obs, noise.actor, hyper.latent_clip)
    with frozen(nets.critic):
        actor_loss, perturbed = over_runs(losses.perturbation_loss)(
            nets.critic, nets.actor_perturbation, obs, sampled
        )
        optimizers["actor_perturbation"].apply(actor_loss)

    with torch.no_grad():
        diagnostics = over_runs(_diagnostics)(
            target, sampled, perturbed, noise.target, hyper.latent_clip
        )
    polyak_update(
        (nets.actor_perturbation_target, nets.critic_target, nets.critic2_target),
        (nets.actor_perturbation, nets.critic, nets.critic2),
        hyper.tau,
    )
    values = (actor_loss, critic1_loss, critic2_loss, *vae_loss, q1_mean, q2_mean, *diagnostics)
    return {name: value.detach() for name, value in zip(BCQ.statistics(), values, strict=True)}


def _target(
    networks: tuple[Any, ...],
    latent: Tensor,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
    lmbda: float | Tensor,
    clip: Any,
) -> Tensor:
    value = partial(losses.target_value, *networks, gamma=gamma, lmbda=lmbda)
    return losses.in_parts(value, latent.clamp(-clip, clip), obs_next, rew, terminated)


def _sampled(vae: ConditionalVAE, obs: Tensor, latent: Tensor, clip: Any) -> Tensor:
    return vae.decode(obs, latent.clamp(-clip, clip))


def _diagnostics(
    target: Tensor, sampled: Tensor, perturbed: Tensor, target_latent: Tensor, clip: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean target, mean |perturbation|, and the share of the target's latents that was clipped."""
    clipped = (target_latent.abs() > clip).to(target.dtype)
    return target.mean(), (perturbed - sampled).abs().mean(), clipped.mean()


class BCQ(OfflineAlgorithm[BCQPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Batch-Constrained deep Q-learning.

    Args:
        policy: the policy, with the perturbation, the first critic and the VAE.
        actor_perturbation_optim: optimizer of the perturbation. Here and below a factory of
            Tianshou's form is also taken (:func:`~bcq_exp.algorithm.optim.optimizer_for`).
        critic_optim: optimizer of the first critic.
        vae_optim: optimizer of the VAE.
        critic2: the second critic; ``None`` clones the first and re-initializes the clone (two
            equal critics would stay equal, and ``lmbda`` would do nothing).
        critic2_optim: optimizer of the second critic; ``None`` is ``critic_optim``.
        gamma: discount factor, in [0, 1].
        tau: share of the source that a target network takes each step, in (0, 1].
        lmbda: weight of the minimum in clipped double Q-learning, in [0, 1].
        num_sampled_action: sampled actions a next state in the target (the paper's 10).

    Raises:
        TypeError: if an optimizer's factory is none.
        ValueError: if a number is out of its range, or no weight of the clone can be redrawn.
    """

    training_stats = BCQTrainingStats
    diagnostics = (
        "recon_loss",
        "kl_loss",
        "q1_mean",
        "q2_mean",
        "target_q_mean",
        "perturbation_abs_mean",
        "latent_clip_fraction",
    )
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: BCQPolicy,
        actor_perturbation_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        vae_optim: OptimizerFactory,
        critic2: nn.Module | None = None,
        critic2_optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        tau: float = 0.005,
        lmbda: float = 0.75,
        num_sampled_action: int = 10,
    ) -> None:
        super().__init__(policy=policy)
        require("gamma", gamma, GAMMA)
        require("tau", tau, TAU)
        require("lmbda", lmbda, LMBDA)
        require("num_sampled_action", num_sampled_action, COUNT)
        self.gamma, self.tau, self.lmbda = gamma, tau, lmbda
        self.num_sampled_action = num_sampled_action
        self.critic2 = redrawn(policy.critic) if critic2 is None else critic2
        self.actor_perturbation_target = self._add_lagged_network(policy.actor_perturbation)
        self.critic_target = self._add_lagged_network(policy.critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self._optimizers = {
            "actor_perturbation": optimizer_for(
                policy.actor_perturbation, actor_perturbation_optim
            ),
            "critic": optimizer_for(policy.critic, critic_optim),
            "critic2": optimizer_for(self.critic2, critic2_optim or critic_optim),
            "vae": optimizer_for(policy.vae, vae_optim),
        }

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        bounds: Mapping[str, Any],
        policy: Mapping[str, Any],
        actor: Callable[..., nn.Module],
        critic: Callable[..., nn.Module],
        vae: Callable[..., nn.Module],
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        vae_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> BCQ:
        return cls(
            policy=BCQPolicy(
                actor_perturbation=actor(**sizes, **bounds),
                critic=critic(**sizes),
                vae=vae(**sizes, **bounds),
                **policy,
            ),
            actor_perturbation_optim=actor_optim,
            critic_optim=critic_optim,
            vae_optim=vae_optim,
            **hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        policy = self.policy
        return Networks(
            vae=broadcasting(policy.vae),
            actor_perturbation=broadcasting(policy.actor_perturbation),
            critic=broadcasting(policy.critic),
            critic2=broadcasting(self.critic2),
            actor_perturbation_target=broadcasting(self.actor_perturbation_target),
            critic_target=broadcasting(self.critic_target),
            critic2_target=broadcasting(self.critic2_target),
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(
            gamma=self.gamma,
            lmbda=self.lmbda,
            tau=self.tau,
            latent_clip=self.policy.latent_clip,
            kl_weight=kl_weight(self.policy.vae),
        )

    def noise_shapes(self, batch_size: int) -> Any:
        width = latent_dim(self.policy.vae)
        shapes: dict[str, Any] = {
            "vae_eps": (batch_size, width),
            "target": (batch_size, self.num_sampled_action, width),
            "actor": (batch_size, width),
        }
        return Noise(**shapes)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.policy.critic(obs, act).squeeze(-1)

    @property
    def watches(self) -> tuple[Watch, ...]:
        moved = self.policy.actor_perturbation
        phi, scale = (getattr(moved, name, None) for name in ("phi", "scale"))
        if isinstance(phi, Tensor) and isinstance(scale, Tensor):
            return watches(float(phi * scale.mean()))
        return watches(None)


def watches(largest_perturbation: float | None) -> tuple[Watch, ...]:
    """What means trouble in BCQ's statistics.

    ``largest_perturbation`` is the largest mean |perturbation| there can be, phi times half the
    actions' range; ``None`` where the network sets no such bound.
    """
    found = (
        diverging_q("q1_mean", "q2_mean"),
        DEAD_VAE,
    )
    if not largest_perturbation:
        return found
    stuck = Watch(
        "perturbation at phi", ("perturbation_abs_mean",), above=STUCK_SHARE * largest_perturbation
    )
    return (*found, stuck)
