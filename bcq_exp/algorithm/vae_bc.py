"""VAE-BC, behaviour cloning with a conditional VAE: a baseline of the BCQ paper's section 6.

What is left of BCQ without perturbation and critics: the policy is the generative model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import Minimizer, OfflineAlgorithm, OverRuns, TrainingStats
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import ConditionalVAE
from bcq_exp.algorithm.networks import broadcasting, kl_weight, latent_clip, latent_dim
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.watch import DEAD_VAE, Watch


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

    def __init__(self, *, vae: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.vae = vae

    @property
    def normal_shape(self) -> tuple[int, ...]:
        return (latent_dim(self.vae),)

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        assert normal is not None
        clip = latent_clip(self.vae)
        return broadcasting(self.vae).decode(obs, normal.clamp(-clip, clip))


class Networks(NamedTuple):
    """The one network, of a run or of K stacked ones."""

    vae: ConditionalVAE


class Hyperparameters(NamedTuple):
    """The number of the loss: of one run, or a (K,) tensor."""

    kl_weight: float | Tensor


class Noise(NamedTuple):
    """The reparametrization's standard normals (B, L)."""

    vae_eps: Tensor


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Noise,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """BCQ's first step alone, a :class:`~bcq_exp.algorithm.base.Step`."""
    found = over_runs(losses.vae_loss)(
        nets.vae, batch.obs, batch.act, noise.vae_eps, hyper.kl_weight
    )
    optimizers["vae"].apply(found.loss)
    return {name: x.detach() for name, x in zip(VAEBC.statistics(), found, strict=True)}


class VAEBC(OfflineAlgorithm[VAEPolicy]):
    """Behaviour cloning with a conditional VAE.

    Args:
        policy: with the VAE that learns.
        vae_optim: its optimizer.
    """

    training_stats = VAEBCTrainingStats
    diagnostics = ("recon_loss", "kl_loss")
    steps = (train_step,)

    def __init__(self, *, policy: VAEPolicy, vae_optim: OptimizerFactory) -> None:
        super().__init__(policy=policy)
        self._optimizers["vae"] = optimizer_for(policy.vae, vae_optim)

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        bounds: Mapping[str, Any],
        policy: Mapping[str, Any],
        vae: Callable[..., nn.Module],
        vae_optim: OptimizerFactory,
    ) -> VAEBC:
        return cls(policy=VAEPolicy(vae=vae(**sizes, **bounds), **policy), vae_optim=vae_optim)

    @property
    def networks(self) -> Networks:
        return Networks(broadcasting(self.policy.vae))

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(kl_weight(self.policy.vae))

    def noise_shapes(self, batch_size: int) -> Any:
        shapes: dict[str, Any] = {"vae_eps": (batch_size, latent_dim(self.policy.vae))}
        return Noise(**shapes)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (DEAD_VAE,)
