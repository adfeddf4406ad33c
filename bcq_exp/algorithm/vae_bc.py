"""VAE-BC, behaviour cloning with a conditional VAE: a baseline of the BCQ paper's section 6.

This is BCQ without perturbation and critics: the policy is the generative model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import DEAD_VAE
from bcq_exp.algorithm.base import OfflineAlgorithm, Optimizers, TrainingStats
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import ConditionalVAE
from bcq_exp.algorithm.networks import VAE, broadcasting, latent_dim
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import Policy


@dataclass(kw_only=True)
class VAEBCTrainingStats(TrainingStats):
    """The VAE's loss."""

    vae_loss: float


class VAEPolicy(Policy):
    """Samples one action a state from the VAE, its latent from the clipped prior.

    Args:
        vae: as of :class:`bcq_exp.algorithm.bcq.BCQPolicy`.
        options: as of :class:`Policy`.
    """

    pure = True

    def __init__(self, *, vae: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.vae = vae

    @property
    def normal_shape(self) -> tuple[int, ...]:
        return (latent_dim(self.vae),)

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        assert normal is not None
        return losses.sampled_action(broadcasting(self.vae), obs, normal)


class Networks(NamedTuple):
    """The network of a run, or of K stacked runs."""

    vae: ConditionalVAE


class Noise(NamedTuple):
    """The reparametrization's standard normals (B, L)."""

    vae_eps: Tensor


def train_step(
    nets: Networks, optimizers: Optimizers, hyper: Any, batch: Batch, noise: Noise
) -> dict[str, Tensor]:
    """The VAE's part of BCQ's step, a :class:`~bcq_exp.algorithm.base.Step`."""
    vae = losses.vae_loss(nets.vae, batch.obs, batch.act, noise.vae_eps)
    optimizers["vae"].apply(vae.loss)
    return {"vae_loss": vae.loss, "recon_loss": vae.recon, "kl_loss": vae.kl}


class VAEBC(OfflineAlgorithm[VAEPolicy]):
    """Behaviour cloning with a conditional VAE.

    Args:
        policy: with the VAE that learns.
        vae_optim: its optimizer.
    """

    training_stats = VAEBCTrainingStats
    diagnostics = ("recon_loss", "kl_loss")
    watches = (DEAD_VAE,)
    reads = ("policy", "vae", "vae_optim")
    network_kinds = {"vae": VAE}
    steps = (train_step,)

    def __init__(self, *, policy: VAEPolicy, vae_optim: OptimizerFactory) -> None:
        super().__init__(policy=policy)
        self.optimizers["vae"] = optimizer_for(policy.vae, vae_optim)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        vae = parts.network("vae", **parts.bounds)
        return cls(
            policy=VAEPolicy(vae=vae, **parts.policy), vae_optim=parts.optimizer("vae_optim")
        )

    @property
    def networks(self) -> Networks:
        policy: Any = self.policy
        return Networks(policy.vae)

    def noise_shapes(self, batch_size: int) -> Any:
        shapes: dict[str, Any] = {"vae_eps": (batch_size, latent_dim(self.policy.vae))}
        return Noise(**shapes)
