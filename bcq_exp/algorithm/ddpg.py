"""Deep Deterministic Policy Gradient (Lillicrap et al. 2016, arXiv:1509.02971), from a fixed batch.

The off-policy baseline of the BCQ paper's section 6, as in its authors' code: one critic, no
noise on the target's action, every network and both targets moved at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
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
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import broadcasting
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.watch import Watch, diverging_q
from bcq_exp.ranges import GAMMA, TAU, require


@dataclass(kw_only=True)
class DDPGTrainingStats(TrainingStats):
    """Minus the mean value of the actor's actions, and the critic's squared error."""

    actor_loss: float
    critic_loss: float


class Networks(NamedTuple):
    """The networks of a run, or of K stacked ones."""

    actor: StateToAction
    critic: StateAction
    actor_target: StateToAction
    critic_target: StateAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one run, or (K,) tensors."""

    gamma: float | Tensor
    tau: float | Tensor


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


def actor_loss(critic: StateAction, actor: StateToAction, obs: Tensor) -> Tensor:
    """-mean Q(s, mu(s)): the deterministic policy gradient as a loss."""
    return -critic(obs, actor(obs)).mean()


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Any,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """Algorithm 1 less its exploration, a :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target = over_runs(target_value)(
            nets.critic_target,
            nets.actor_target,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
        )
    critic_loss, q_mean = over_runs(losses.critic_loss)(nets.critic, batch.obs, batch.act, target)
    optimizers["critic"].apply(critic_loss)
    with frozen(nets.critic):
        policy_loss = over_runs(actor_loss)(nets.critic, nets.actor, batch.obs)
        optimizers["actor"].apply(policy_loss)
    polyak_update((nets.critic_target, nets.actor_target), (nets.critic, nets.actor), hyper.tau)
    return {
        "actor_loss": policy_loss.detach(),
        "critic_loss": critic_loss.detach(),
        "q_mean": q_mean.detach(),
        "target_q_mean": target.mean((-2, -1)),
    }


class DDPG(OfflineAlgorithm[DeterministicPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Off-policy DDPG.

    Args:
        policy: with the actor.
        critic: Q(s, a), ``(obs, act) -> (B, 1)``.
        actor_optim, critic_optim: their optimizers.
        gamma: discount factor, in [0, 1].
        tau: share of the source that a target network takes each step, in (0, 1].

    Raises:
        ValueError: if a number is out of its range.
    """

    training_stats = DDPGTrainingStats
    diagnostics = ("q_mean", "target_q_mean")
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: DeterministicPolicy,
        critic: nn.Module,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        gamma: float = 0.99,
        tau: float = 0.005,
    ) -> None:
        super().__init__(policy=policy)
        require("gamma", gamma, GAMMA)
        require("tau", tau, TAU)
        self.gamma, self.tau = gamma, tau
        self.critic = critic
        self.actor_target = self._add_lagged_network(policy.actor)
        self.critic_target = self._add_lagged_network(critic)
        self._optimizers = {
            "actor": optimizer_for(policy.actor, actor_optim),
            "critic": optimizer_for(critic, critic_optim),
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
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> DDPG:
        return cls(
            policy=DeterministicPolicy(actor=actor(**sizes, **bounds), **policy),
            critic=critic(**sizes),
            actor_optim=actor_optim,
            critic_optim=critic_optim,
            **hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=broadcasting(self.policy.actor),
            critic=broadcasting(self.critic),
            actor_target=broadcasting(self.actor_target),
            critic_target=broadcasting(self.critic_target),
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(gamma=self.gamma, tau=self.tau)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)

    @property
    def watches(self) -> tuple[Watch, ...]:
        return (diverging_q("q_mean"),)
