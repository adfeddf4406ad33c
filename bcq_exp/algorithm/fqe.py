"""Fitted Q evaluation (Le, Voloshin & Yue 2019, arXiv:1903.08738): the value of a fixed policy pi
from recorded transitions of any policy.

    y   = r + gamma (1 - terminated) Q_{k-1}(s', pi(s'))    in [V_min, V_max]
    Q_k = argmin_f E_(s, a, r, s')~D [ (f(s, a) - y)^2 ]
    V   = E_s0 [ Q_K(s0, pi(s0)) ]

This is algorithm 3 with rewards in place of costs. Q_{k-1} is a target network that follows its
source, as in the benchmarks of this estimator (Fu et al. 2021, arXiv:2103.16596), so that a
gradient step is a part of an iteration. The policy is fixed, so its actions are precomputed data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import (
    TRANSITION,
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import FQEHyperparameters
from bcq_exp.algorithm.losses import StateAction
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.stacking import per_run


@dataclass(kw_only=True)
class FQETrainingStats(TrainingStats):
    """The mean squared Bellman error of the policy that is evaluated."""

    critic_loss: float


class Networks(NamedTuple):
    """Q_k and Q_{k-1}."""

    critic: StateAction
    critic_target: StateAction


@per_run
def target_value(
    critic_target: StateAction,
    obs_next: Tensor,
    act_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
    v_min: Any,
    v_max: Any,
) -> Tensor:
    """y (B, 1), the target of the regression."""
    target = losses.policy_target(critic_target, obs_next, act_next, rew, terminated, gamma)
    return target.clamp(min=v_min).clamp(max=v_max)


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: FQEHyperparameters,
    batch: Batch,
    noise: Any,
) -> dict[str, Tensor]:
    """Take a step of the regression, a :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target = target_value(
            nets.critic_target,
            batch.obs_next,
            batch.act_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
            hyper.v_min,
            hyper.v_max,
        )
    loss, q_mean = losses.critic_loss(nets.critic, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss)
    polyak_update((nets.critic_target,), (nets.critic,), hyper.tau)
    return {"critic_loss": loss, "q_mean": q_mean, "target_q_mean": target.mean((-2, -1))}


class FQE(OfflineAlgorithm[Any], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Evaluates one policy; batches have its action in the next state, ``act_next`` (B, A).

    Args:
        critic: Q(s, a), ``(obs, act) -> (B, 1)``.
        critic_optim: its optimizer.
        hyperparameters: of :class:`FQEHyperparameters`.

    Raises:
        ValueError: if a number is out of its range.
    """

    transition = (*TRANSITION, "act_next")
    training_stats = FQETrainingStats
    diagnostics = ("q_mean", "target_q_mean")
    Hyperparameters = FQEHyperparameters
    steps = (train_step,)

    def __init__(
        self, *, critic: nn.Module, critic_optim: OptimizerFactory, **hyperparameters: Any
    ) -> None:
        super().__init__(policy=None, **hyperparameters)  # it learns no policy
        self.critic = critic
        self.critic_target = self._add_lagged_network(critic)
        self.optimizers = {"critic": optimizer_for(critic, critic_optim)}

    @property
    def networks(self) -> Networks:
        return Networks(self.critic, self.critic_target)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)
