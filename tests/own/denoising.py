"""An algorithm as a user's own package has it: cloning from observations with noise on them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.nn.functional import mse_loss

from bcq_exp.algorithm.base import OfflineAlgorithm, TrainingStats
from bcq_exp.algorithm.networks import broadcasting
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.watch import Watch


@dataclass(kw_only=True)
class Stats(TrainingStats):
    actor_loss: float


class Networks(NamedTuple):
    actor: Any


class Hyperparameters(NamedTuple):
    sigma: Any


class Noise(NamedTuple):
    on_obs: Any


def denoising_loss(actor, obs, act, noise, sigma):
    return mse_loss(actor(obs + sigma * noise), act)


def train_step(nets, optimizers, hyper, batch, noise, over_runs):
    loss = over_runs(denoising_loss)(nets.actor, batch.obs, batch.act, noise.on_obs, hyper.sigma)
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss.detach(), "noise_abs_mean": noise.on_obs.abs().mean((-2, -1))}


class DenoisingBC(OfflineAlgorithm):
    training_stats = Stats
    diagnostics = ("noise_abs_mean",)
    steps = (train_step,)

    def __init__(self, policy, actor_optim, obs_dim, sigma):
        super().__init__(policy=policy)
        self.obs_dim, self.sigma = obs_dim, sigma
        self._optimizers["actor"] = actor_optim.create(policy.actor.parameters())

    @classmethod
    def from_parts(cls, *, sizes, bounds, policy, actor, actor_optim, sigma):
        if sigma < 0:
            raise ValueError(f"sigma is at least 0, not {sigma}")
        acting = DeterministicPolicy(actor=actor(**sizes, **bounds), **policy)
        return cls(acting, actor_optim, sizes["obs_dim"], sigma)

    @property
    def networks(self):
        return Networks(broadcasting(self.policy.actor))

    @property
    def hyperparameters(self):
        return Hyperparameters(self.sigma)

    def noise_shapes(self, batch_size):
        return Noise((batch_size, self.obs_dim))

    @property
    def watches(self):
        return (Watch("too noisy", ("noise_abs_mean",), above=0.5),)
