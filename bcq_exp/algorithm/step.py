"""One gradient step of BCQ (the paper's algorithm 1), for one run or a stack of runs.

The equations are those of :mod:`bcq_exp.algorithm.losses`; here stand their order and what is
differentiated by which optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import Batch
from bcq_exp.algorithm.mlp import held

#: What one gradient step tells, in the order of train.csv's columns.
STATISTICS = (
    "actor_loss",
    "critic1_loss",
    "critic2_loss",
    "vae_loss",
    "recon_loss",
    "kl_loss",
    "q1_mean",
    "q2_mean",
    "target_q_mean",
    "perturbation_abs_mean",
    "latent_clip_fraction",
)


class Noise(NamedTuple):
    """Every random number of one gradient step: standard normals, before any clipping.

    Args:
        vae_eps: (B, L), the VAE's reparametrization.
        target_latent: (B, n, L), the latents of the next state's sampled actions.
        actor_latent: (B, L), the latents of the actions the actor perturbs.
    """

    vae_eps: Tensor
    target_latent: Tensor
    actor_latent: Tensor


class Networks(NamedTuple):
    """The networks of a run, as the losses call them, or of K runs, stacked."""

    vae: Any
    perturbation: Any
    critic: Any
    critic2: Any
    perturbation_target: Any
    critic_target: Any
    critic2_target: Any


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    gamma: float | Tensor
    lmbda: float | Tensor
    tau: float | Tensor
    latent_clip: float | Tensor
    kl_weight: float | Tensor


class Steps(Protocol):
    """An optimizer as a step needs it."""

    def apply(self, loss: Tensor) -> None:
        """Move the parameters against the gradient of a loss, () or (K,)."""


def train_step(
    networks: Networks,
    optimizers: Mapping[str, Steps],
    hyperparameters: Hyperparameters,
    batch: Batch,
    noise: Noise,
    over_runs: Callable[[Callable], Callable],
) -> dict[str, Tensor]:
    """Steps the VAE, the critics and the actor; the target networks are left to the caller.

    ``batch`` holds float tensors ``obs (B, O), act (B, A), rew (B,), terminated (B,), obs_next
    (B, O)``. With K stacked runs everything has a leading K and ``over_runs`` is ``torch.vmap``,
    which makes of a function of one run one of all; with one run it is the identity. Returns the
    STATISTICS by name, () or (K,); nothing is synchronized with a GPU.
    """
    nets, hyper = networks, hyperparameters
    obs, act = batch.obs, batch.act

    vae_loss = over_runs(losses.vae_loss)(nets.vae, obs, act, noise.vae_eps, hyper.kl_weight)
    optimizers["vae"].apply(vae_loss.loss)

    with torch.no_grad():
        target = over_runs(_target)(
            (nets.vae, nets.perturbation_target, nets.critic_target, nets.critic2_target),
            noise.target_latent,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
            hyper.lmbda,
            hyper.latent_clip,
        )
    critic1_loss, q1_mean = over_runs(_critic_loss)(nets.critic, obs, act, target)
    critic2_loss, q2_mean = over_runs(_critic_loss)(nets.critic2, obs, act, target)
    optimizers["critic"].apply(critic1_loss)
    optimizers["critic2"].apply(critic2_loss)

    with torch.no_grad():
        sampled = over_runs(_sampled)(nets.vae, obs, noise.actor_latent, hyper.latent_clip)
    with held(nets.critic):
        actor_loss, perturbed = over_runs(losses.perturbation_loss)(
            nets.critic, nets.perturbation, obs, sampled
        )
        optimizers["actor_perturbation"].apply(actor_loss)

    with torch.no_grad():
        diagnostics = over_runs(_diagnostics)(
            target, sampled, perturbed, noise.target_latent, hyper.latent_clip
        )
    values = (actor_loss, critic1_loss, critic2_loss, *vae_loss, q1_mean, q2_mean, *diagnostics)
    return {name: value.detach() for name, value in zip(STATISTICS, values, strict=True)}


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


def _critic_loss(
    critic: losses.StateAction, obs: Tensor, act: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    q = critic(obs, act)
    return mse_loss(q, target), q.mean()


def _sampled(vae: Any, obs: Tensor, latent: Tensor, clip: Any) -> Tensor:
    return vae.decode(obs, latent.clamp(-clip, clip))


def _diagnostics(
    target: Tensor, sampled: Tensor, perturbed: Tensor, target_latent: Tensor, clip: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean target, mean |perturbation|, and the share of the target's latents that was clipped."""
    clipped = (target_latent.abs() > clip).to(target.dtype)
    return target.mean(), (perturbed - sampled).abs().mean(), clipped.mean()
