"""Deep Deterministic Policy Gradient (Lillicrap et al. 2016, arXiv:1509.02971), from a fixed batch.

The off-policy baseline of the BCQ paper's section 6, as in its authors' code: one critic, no
noise on the target's action, every network and both targets moved at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import diverging_q
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import TargetHyperparameters
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import Actor, Critic
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run


@dataclass(kw_only=True)
class DDPGTrainingStats(TrainingStats):
    """Minus the mean value of the actor's actions, and the critic's squared error."""

    actor_loss: float
    critic_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked runs."""

    actor: StateToAction
    critic: StateAction
    actor_target: StateToAction
    critic_target: StateAction


@per_run
def target_value(
    critic: StateAction,
    actor: StateToAction,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y = r + gamma (1 - terminated) Q'(s', mu'(s')), (B, 1); of algorithm 1."""
    return losses.policy_target(critic, obs_next, actor(obs_next), rew, terminated, gamma)


@per_run
def actor_loss(critic: StateAction, actor: StateToAction, obs: Tensor) -> Tensor:
    """-mean Q(s, mu(s)): the deterministic policy gradient as a loss."""
    return -critic(obs, actor(obs)).mean()


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: TargetHyperparameters,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """Algorithm 1 without exploration, a :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target = target_value(
            nets.critic_target,
            nets.actor_target,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
        )
    critic_loss, q_mean = losses.critic_loss(nets.critic, batch.obs, batch.act, target)
    optimizers["critic"].apply(critic_loss)
    with frozen(nets.critic):
        policy_loss = actor_loss(nets.critic, nets.actor, batch.obs)
        optimizers["actor"].apply(policy_loss)
    polyak_update((nets.critic_target, nets.actor_target), (nets.critic, nets.actor), hyper.tau)
    return {
        "actor_loss": policy_loss,
        "critic_loss": critic_loss,
        "q_mean": q_mean,
        "target_q_mean": target.mean((-2, -1)),
    }


class DDPG(OfflineAlgorithm[DeterministicPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Off-policy DDPG.

    Args:
        policy: with the actor.
        critic: Q(s, a), ``(obs, act) -> (B, 1)``.
        actor_optim, critic_optim: their optimizers.
        hyperparameters: of :class:`TargetHyperparameters`.

    Raises:
        ValueError: if a number is out of its range.
    """

    training_stats = DDPGTrainingStats
    diagnostics = ("q_mean", "target_q_mean")
    watches = (diverging_q("q_mean"),)
    Hyperparameters = TargetHyperparameters
    reads = ("policy", "actor", "critic", "actor_optim", "critic_optim")
    network_kinds = {"actor": Actor, "critic": Critic}
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: DeterministicPolicy,
        critic: nn.Module,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, **hyperparameters)
        self.critic = critic
        self.actor_target = self._add_lagged_network(policy.actor)
        self.critic_target = self._add_lagged_network(critic)
        self.optimizers = {
            "actor": optimizer_for(policy.actor, actor_optim),
            "critic": optimizer_for(critic, critic_optim),
        }

    @classmethod
    def build(cls, parts: Parts) -> Self:
        actor = parts.network("actor", **parts.bounds)
        return cls(
            policy=DeterministicPolicy(actor=actor, **parts.policy),
            critic=parts.network("critic"),
            actor_optim=parts.optimizer("actor_optim"),
            critic_optim=parts.optimizer("critic_optim"),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=self.policy.actor,
            critic=self.critic,
            actor_target=self.actor_target,
            critic_target=self.critic_target,
        )

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)
