"""Deep Q-learning (Mnih et al. 2015) of discrete or independently discretized actions.

The discrete baseline of the BCQ paper's section 6. "Independently" is taken to mean that each
dimension d has ``num_bins`` evenly spaced actions and a value Q_d(s, bin) of its own, learnt by its
own Bellman equation as if the other dimensions were part of the environment. Discrete actions are
one dimension, whose bins they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.alerts import diverging_q
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.discrete import DiscretePolicy, taken
from bcq_exp.algorithm.hyperparameters import DQNHyperparameters
from bcq_exp.algorithm.losses import StateToAction, bellman_target
from bcq_exp.algorithm.networks import ActionRange, StateCritic
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.ranges import BINS, require


@dataclass(kw_only=True)
class DQNTrainingStats(TrainingStats):
    """The squared Bellman error, averaged over the batch and the dimensions."""

    critic_loss: float


class Bins(ActionRange):
    """``num_bins`` actions in each dimension, evenly from its lowest to its highest.

    Args:
        low, high: bounds of the action, (A,) or numbers.
        num_bins: at least 2.

    Raises:
        ValueError: for fewer, or bounds as of :class:`ActionRange`.
    """

    def __init__(self, *, low: Any, high: Any, num_bins: int) -> None:
        super().__init__(low, high)
        require("num_bins", num_bins, BINS)
        self.num_bins = num_bins

    def forward(self, act: Tensor) -> Tensor:
        """The nearest bin of each dimension, int64 (..., A)."""
        share = (act - self.low) / (self.high - self.low)
        return (share * (self.num_bins - 1)).round().clamp(0, self.num_bins - 1).long()

    def decode(self, index: Tensor) -> Tensor:
        """The actions of bins (..., A)."""
        return self.low + (self.high - self.low) * (index / (self.num_bins - 1))


class GreedyPolicy(Policy):
    """Takes in each dimension the bin of largest value.

    Args:
        critic: ``(obs,) -> q``, (B, O) -> (B, A * num_bins), dimension by dimension.
        bins: the actions they stand for.
        options: as of :class:`Policy`.
    """

    def __init__(self, *, critic: nn.Module, bins: Bins, **options: Any) -> None:
        super().__init__(**options)
        self.critic = critic
        self.bins = bins

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        q = self.critic(obs).unflatten(-1, (-1, self.bins.num_bins))
        return self.bins.decode(q.argmax(-1))


class DiscreteGreedyPolicy(DiscretePolicy):
    """Takes the discrete action of largest value.

    Args:
        critic: ``(obs,) -> q``, (B, O) -> (B, n).
        bins: the indices 0 to n - 1.
        options: as of :class:`~bcq_exp.algorithm.discrete.DiscretePolicy`.
    """

    def __init__(self, *, critic: nn.Module, bins: Bins, **options: Any) -> None:
        super().__init__(**options)
        self.critic = critic
        self.bins = bins

    def scores(self, obs: Tensor) -> Tensor:
        return self.critic(obs)


class Networks(NamedTuple):
    """The networks of a run, or of K stacked runs."""

    critic: StateToAction
    critic_target: StateToAction
    bins: Bins


@per_run
def target_value(
    critic_target: StateToAction,
    act_dim: int,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y_d = r + gamma (1 - terminated) max_j Q'_d(s', j), (B, A)."""
    q = critic_target(obs_next).unflatten(-1, (act_dim, -1)).amax(-1)
    return bellman_target(q, rew.unsqueeze(-1), terminated.unsqueeze(-1), gamma)


def bin_values(critic: StateToAction, bins: Bins, obs: Tensor, act: Tensor) -> Tensor:
    """The values of actions (B, A): Q_d(s, bin of a_d), (B, A)."""
    q = critic(obs).unflatten(-1, (act.shape[-1], -1))  # (B, A, bins)
    return taken(q, bins(act).unsqueeze(-1))


@per_run
def bellman_error(
    critic: StateToAction, bins: Bins, obs: Tensor, act: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the recorded bins' values to the targets (B, A); also their mean."""
    q = bin_values(critic, bins, obs, act)
    return mse_loss(q, target), q.mean()


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: DQNHyperparameters,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target = target_value(
            nets.critic_target,
            batch.act.shape[-1],
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
        )
    loss, q_mean = bellman_error(nets.critic, nets.bins, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss)
    polyak_update((nets.critic_target,), (nets.critic,), hyper.tau)
    return {"critic_loss": loss, "q_mean": q_mean, "target_q_mean": target.mean((-2, -1))}


class DQN(
    OfflineAlgorithm[GreedyPolicy | DiscreteGreedyPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin
):
    """DQN of discrete or discretized actions, its target network moved by polyak averaging.

    Args:
        policy: with the critic that learns and the bins of its actions.
        critic_optim: the critic's optimizer.
        hyperparameters: of :class:`DQNHyperparameters`; ``num_bins`` is the policy's.

    Raises:
        ValueError: if a number is out of its range.
    """

    action_spaces = (Box, Discrete)
    training_stats = DQNTrainingStats
    diagnostics = ("q_mean", "target_q_mean")
    watches = (diverging_q("q_mean"),)
    Hyperparameters = DQNHyperparameters
    reads = ("policy", "critic", "critic_optim")
    network_kinds = {"critic": StateCritic}
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: GreedyPolicy | DiscreteGreedyPolicy,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, **{**hyperparameters, "num_bins": policy.bins.num_bins})
        self.critic_target = self._add_lagged_network(policy.critic)
        self.optimizers["critic"] = optimizer_for(policy.critic, critic_optim)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        num_actions = parts.sizes["act_dim"]
        policy: GreedyPolicy | DiscreteGreedyPolicy
        if isinstance(parts.policy["action_space"], Discrete):
            bins = Bins(low=[0.0], high=[num_actions - 1.0], num_bins=num_actions)
            policy = DiscreteGreedyPolicy(
                critic=parts.network("critic"), bins=parts.place(bins), **parts.policy
            )
        else:
            num_bins = cls.Hyperparameters(**parts.hyperparameters).num_bins
            policy = GreedyPolicy(
                critic=parts.network("critic", act_dim=num_actions * num_bins),
                bins=parts.place(Bins(**parts.bounds, num_bins=num_bins)),
                **parts.policy,
            )
        optim = parts.optimizer("critic_optim")
        return cls(policy=policy, critic_optim=optim, **parts.hyperparameters)

    @property
    def networks(self) -> Networks:
        return Networks(self.policy.critic, self.critic_target, self.policy.bins)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        """Each dimension estimates the same return; their mean."""
        return bin_values(self.policy.critic, self.policy.bins, obs, act).mean(-1)
