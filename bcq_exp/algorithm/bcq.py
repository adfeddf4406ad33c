"""Batch-Constrained deep Q-learning (Fujimoto, Meger & Precup 2019, arXiv:1812.02900).

:func:`train_step` is algorithm 1. Its equations are those of :mod:`bcq_exp.algorithm.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import DEAD_VAE, Watch, diverging_q
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import BCQHyperparameters
from bcq_exp.algorithm.losses import ConditionalVAE, StateAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import (
    VAE,
    Critic,
    Perturbation,
    broadcasting,
    latent_clip,
    latent_dim,
    redrawn,
)
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.twin_critics import fit_critics
from bcq_exp.ranges import COUNT, require

STUCK_SHARE = 0.95  # share of the largest possible mean |perturbation|


class Networks(NamedTuple):
    """The networks of a run, as the losses call them, or of K runs, stacked."""

    vae: ConditionalVAE
    actor_perturbation: StateAction
    critic: StateAction
    critic2: StateAction
    actor_perturbation_target: StateAction
    critic_target: StateAction
    critic2_target: StateAction


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
    optimizers: Optimizers,
    hyper: BCQHyperparameters,
    batch: Batch,
    noise: Noise,
) -> dict[str, Tensor]:
    """Algorithm 1, a :class:`~bcq_exp.algorithm.base.Step`: VAE, critics, actor, then targets."""
    obs, act = batch.obs, batch.act

    # the generative model: negative evidence lower bound
    vae = losses.vae_loss(nets.vae, obs, act, noise.vae_eps)
    optimizers["vae"].apply(vae.loss)

    # the critics: equation 13
    with torch.no_grad():
        target = losses.target_value(
            nets.vae, nets.actor_perturbation_target, nets.critic_target, nets.critic2_target,
            noise.target, batch.obs_next, batch.rew, batch.terminated,
            gamma=hyper.gamma, lmbda=hyper.lmbda,
        )  # fmt: skip
    metrics = fit_critics(nets, optimizers, batch, target)

    # the perturbation: equation 12
    with torch.no_grad():
        sampled = losses.sampled_action(nets.vae, obs, noise.actor)
    with frozen(nets.critic):
        actor_loss, perturbed = losses.perturbation_loss(
            nets.critic, nets.actor_perturbation, obs, sampled
        )
        optimizers["actor_perturbation"].apply(actor_loss)

    polyak_update(
        (nets.actor_perturbation_target, nets.critic_target, nets.critic2_target),
        (nets.actor_perturbation, nets.critic, nets.critic2),
        hyper.tau,
    )
    return metrics | {
        "actor_loss": actor_loss,
        "vae_loss": vae.loss,
        "recon_loss": vae.recon,
        "kl_loss": vae.kl,
        "perturbation_abs_mean": (perturbed.detach() - sampled).abs().mean((-2, -1)),
        "latent_clip_fraction": losses.clipped_fraction(nets.vae, noise.target),
    }


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

    pure = True

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
        return float(latent_clip(self.vae))

    @property
    def normal_shape(self) -> tuple[int, ...]:
        return (self.forward_sampled_times, latent_dim(self.vae))

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        """Equation 11: one batched pass over all B * ``forward_sampled_times`` candidates."""
        assert normal is not None
        networks = (self.vae, self.actor_perturbation, self.critic)
        vae, perturbation, critic = map(broadcasting, networks)
        return losses.best_action(vae, perturbation, critic, normal, obs)


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
        gamma, tau, lmbda, num_sampled_action: as of :class:`BCQHyperparameters`.

    Raises:
        TypeError: if an optimizer's factory is invalid.
        ValueError: if a number is out of its range, ``critic2`` is the first critic, or no weight
            of the clone can be redrawn.
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
    Hyperparameters = BCQHyperparameters
    reads = ("policy", "actor", "critic", "vae", "actor_optim", "critic_optim", "vae_optim")
    network_kinds = {"actor": Perturbation, "critic": Critic, "vae": VAE}
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
        gamma: float = BCQHyperparameters.gamma,
        tau: float = BCQHyperparameters.tau,
        lmbda: float = BCQHyperparameters.lmbda,
        num_sampled_action: int = BCQHyperparameters.num_sampled_action,
    ) -> None:
        super().__init__(
            policy=policy, gamma=gamma, tau=tau, lmbda=lmbda, num_sampled_action=num_sampled_action
        )
        if critic2 is policy.critic:
            raise ValueError(
                "critic2 is the first critic; give another module, or None for a clone"
            )
        self.critic2 = redrawn(policy.critic) if critic2 is None else critic2
        self.actor_perturbation_target = self._add_lagged_network(policy.actor_perturbation)
        self.critic_target = self._add_lagged_network(policy.critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self.optimizers = {
            "actor_perturbation": optimizer_for(
                policy.actor_perturbation, actor_perturbation_optim
            ),
            "critic": optimizer_for(policy.critic, critic_optim),
            "critic2": optimizer_for(self.critic2, critic2_optim or critic_optim),
            "vae": optimizer_for(policy.vae, vae_optim),
        }

    @classmethod
    def build(cls, parts: Parts) -> Self:
        return cls(
            policy=BCQPolicy(
                actor_perturbation=parts.network("actor", **parts.bounds),
                critic=parts.network("critic"),
                vae=parts.network("vae", **parts.bounds),
                **parts.policy,
            ),
            actor_perturbation_optim=parts.optimizer("actor_optim"),
            critic_optim=parts.optimizer("critic_optim"),
            vae_optim=parts.optimizer("vae_optim"),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        policy: Any = self.policy
        return Networks(
            vae=policy.vae,
            actor_perturbation=policy.actor_perturbation,
            critic=policy.critic,
            critic2=self.critic2,
            actor_perturbation_target=self.actor_perturbation_target,
            critic_target=self.critic_target,
            critic2_target=self.critic2_target,
        )

    def noise_shapes(self, batch_size: int) -> Any:
        width = latent_dim(self.policy.vae)
        shapes: dict[str, Any] = {
            "vae_eps": (batch_size, width),
            "target": (batch_size, self.hyperparameters.num_sampled_action, width),
            "actor": (batch_size, width),
        }
        return Noise(**shapes)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.policy.critic(obs, act).squeeze(-1)

    @property
    def watches(self) -> tuple[Watch, ...]:
        found = (diverging_q("q1_mean", "q2_mean"), DEAD_VAE)
        moved = self.policy.actor_perturbation
        phi, scale = (getattr(moved, name, None) for name in ("phi", "scale"))
        if not (isinstance(phi, Tensor) and isinstance(scale, Tensor) and phi):
            return found  # the network sets no bound
        largest = float(phi * scale.mean())  # of the mean |perturbation|
        name = "perturbation_abs_mean"
        return (*found, Watch("perturbation at phi", (name,), above=STUCK_SHARE * largest))
