"""An algorithm as a user's own package has it: cloning from observations with noise on them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.nn.functional import mse_loss

from bcq_exp.algorithm.alerts import Watch
from bcq_exp.algorithm.base import OfflineAlgorithm, TrainingStats
from bcq_exp.algorithm.hyperparameters import Hyperparameters, number
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.ranges import NATURAL


@dataclass(kw_only=True)
class Stats(TrainingStats):
    actor_loss: float


class Networks(NamedTuple):
    actor: Any


class Noise(NamedTuple):
    on_obs: Any


@dataclass(frozen=True)
class DenoisingHyperparameters(Hyperparameters):
    sigma: float = number(0.1, NATURAL, "standard deviation of the noise on observations")


@per_run
def denoising_loss(actor, obs, act, noise, sigma):
    return mse_loss(actor(obs + sigma * noise), act)


def train_step(nets, optimizers, hyper, batch, noise):
    loss = denoising_loss(nets.actor, batch.obs, batch.act, noise.on_obs, hyper.sigma)
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss, "noise_abs_mean": noise.on_obs.abs().mean((-2, -1))}


class DenoisingBC(OfflineAlgorithm):
    training_stats = Stats
    diagnostics = ("noise_abs_mean",)
    watches = (Watch("too noisy", ("noise_abs_mean",), above=0.5),)
    Hyperparameters = DenoisingHyperparameters
    reads = ("policy", "actor", "actor_optim")
    steps = (train_step,)

    @classmethod
    def build(cls, parts):
        actor = parts.network("actor", **parts.bounds)
        built = cls(
            policy=DeterministicPolicy(actor=actor, **parts.policy), **parts.hyperparameters
        )
        built.optimizers["actor"] = parts.optimizer("actor_optim").create(actor.parameters())
        return built

    @property
    def networks(self):
        return Networks(self.policy.actor)

    def noise_shapes(self, batch_size):
        return Noise((batch_size, self.policy.observation_space.shape[0]))
