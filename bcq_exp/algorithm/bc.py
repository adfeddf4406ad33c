"""Behaviour cloning: supervised learning of the data's actions (the paper's BC, section 6).

Continuous actions are regressed, discrete ones classified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.base import OfflineAlgorithm, Optimizers, TrainingStats
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.discrete import DiscretePolicy, cross_entropy
from bcq_exp.algorithm.losses import StateToAction
from bcq_exp.algorithm.networks import Actor
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run


@dataclass(kw_only=True)
class BCTrainingStats(TrainingStats):
    """The mean squared error of one batch's actions; of discrete ones, the cross-entropy."""

    actor_loss: float


class Networks(NamedTuple):
    """The network of a run, or of K stacked runs."""

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


def discrete_step(
    nets: Networks, optimizers: Optimizers, hyper: Any, batch: Batch, noise: Any
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step` of discrete actions."""
    loss, _ = cross_entropy(nets.actor, batch.obs, batch.act)
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss}


class ClassifierPolicy(DiscretePolicy):
    """Takes the likeliest action.

    Args:
        actor: logits, (B, O) -> (B, n).
        options: as of :class:`~bcq_exp.algorithm.discrete.DiscretePolicy`.
    """

    def __init__(self, *, actor: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.actor = actor

    def scores(self, obs: Tensor) -> Tensor:
        return self.actor(obs)


class BC(OfflineAlgorithm[DeterministicPolicy | ClassifierPolicy]):
    """Behaviour cloning of a deterministic policy, whose actor ``actor_optim`` moves."""

    action_spaces = (Box, Discrete)
    training_stats = BCTrainingStats
    reads = ("policy", "actor", "actor_optim")
    network_kinds = {"actor": Actor}
    steps = (train_step,)

    def __init__(
        self, *, policy: DeterministicPolicy | ClassifierPolicy, actor_optim: OptimizerFactory
    ) -> None:
        super().__init__(policy=policy)
        self.optimizers["actor"] = optimizer_for(policy.actor, actor_optim)

    @classmethod
    def build(cls, parts: Parts) -> BC:
        actor, optim = parts.network("actor", **parts.bounds), parts.optimizer("actor_optim")
        if isinstance(parts.policy["action_space"], Discrete):
            classifier = ClassifierPolicy(actor=actor, **parts.policy)
            return DiscreteBC(policy=classifier, actor_optim=optim)
        return cls(policy=DeterministicPolicy(actor=actor, **parts.policy), actor_optim=optim)

    @property
    def networks(self) -> Networks:
        return Networks(self.policy.actor)


class DiscreteBC(BC):
    """Behaviour cloning of a classifier of discrete actions."""

    steps = (discrete_step,)
