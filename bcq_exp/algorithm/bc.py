"""Behaviour cloning: supervised learning of the data's actions (the paper's BC, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import Tensor
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.base import OfflineAlgorithm, Optimizers, TrainingStats
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import StateToAction
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run


@dataclass(kw_only=True)
class BCTrainingStats(TrainingStats):
    """The mean squared error of one batch's actions."""

    actor_loss: float


class Networks(NamedTuple):
    """The one network, of a run or of K stacked ones."""

    actor: StateToAction


@per_run
def imitation_loss(actor: StateToAction, obs: Tensor, act: Tensor) -> Tensor:
    """Mean over the batch (B, O), (B, A) and the action's dimensions of (mu(s) - a)^2."""
    return mse_loss(actor(obs), act)


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: Any,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`."""
    loss = imitation_loss(nets.actor, batch.obs, batch.act)
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss}


class BC(OfflineAlgorithm[DeterministicPolicy]):
    """Behaviour cloning of a deterministic policy, whose actor ``actor_optim`` moves."""

    training_stats = BCTrainingStats
    reads = ("policy", "actor", "actor_optim")
    steps = (train_step,)

    def __init__(self, *, policy: DeterministicPolicy, actor_optim: OptimizerFactory) -> None:
        super().__init__(policy=policy)
        self.optimizers["actor"] = optimizer_for(policy.actor, actor_optim)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        actor = parts.network("actor", **parts.bounds)
        policy = DeterministicPolicy(actor=actor, **parts.policy)
        return cls(policy=policy, actor_optim=parts.optimizer("actor_optim"))

    @property
    def networks(self) -> Networks:
        return Networks(self.policy.actor)
