"""Fitted Q evaluation (Le, Voloshin & Yue 2019, arXiv:1903.08738): the value of a fixed policy pi
from transitions that others recorded.

    y   = r + gamma (1 - terminated) Q_{k-1}(s', pi(s'))    in [V_min, V_max]
    Q_k = argmin_f E_(s, a, r, s')~D [ (f(s, a) - y)^2 ]
    V   = E_s0 [ Q_K(s0, pi(s0)) ]

That is algorithm 3 with rewards for costs. Q_{k-1} is a target network that follows its source, as
in the benchmarks of this estimator (Fu et al. 2021, arXiv:2103.16596), so that a gradient step is a
part of an iteration. The policy itself is not here: it is fixed, and its actions come as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import (
    TRANSITION,
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    Minimizer,
    OfflineAlgorithm,
    OverRuns,
    TrainingStats,
    polyak_update,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import StateAction
from bcq_exp.algorithm.networks import broadcasting
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.ranges import GAMMA, TAU, require


@dataclass(kw_only=True)
class FQETrainingStats(TrainingStats):
    """The mean squared Bellman error of the policy that is evaluated."""

    critic_loss: float


class Networks(NamedTuple):
    """Q_k and Q_{k-1}."""

    critic: StateAction
    critic_target: StateAction


class Hyperparameters(NamedTuple):
    """The numbers of the equations: of one evaluation, or (K,) tensors."""

    gamma: float | Tensor
    tau: float | Tensor
    v_min: float | Tensor
    v_max: float | Tensor


def train_step(
    nets: Networks,
    optimizers: Mapping[str, Minimizer],
    hyper: Hyperparameters,
    batch: Batch,
    noise: Any,
    over_runs: OverRuns,
) -> dict[str, Tensor]:
    """A step of the regression, a :class:`~bcq_exp.algorithm.base.Step`."""
    with torch.no_grad():
        target = over_runs(losses.policy_target)(
            nets.critic_target,
            batch.obs_next,
            batch.act_next,
            batch.rew,
            batch.terminated,
            hyper.gamma,
        )
        target = over_runs(torch.clamp)(target, hyper.v_min, hyper.v_max)
    loss, q_mean = over_runs(losses.critic_loss)(nets.critic, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss)
    polyak_update((nets.critic_target,), (nets.critic,), hyper.tau)
    return {
        "critic_loss": loss.detach(),
        "q_mean": q_mean.detach(),
        "target_q_mean": target.mean((-2, -1)),
    }


class FQE(OfflineAlgorithm[Any], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Evaluates one policy; batches have its action in the next state, ``act_next`` (B, A).

    Args:
        critic: Q(s, a), ``(obs, act) -> (B, 1)``.
        critic_optim: its optimizer.
        gamma: discount factor, in [0, 1].
        tau: share of the source that the target takes each step, in (0, 1].
        v_min, v_max: no value lies beyond these.

    Raises:
        ValueError: if a number is out of its range.
    """

    transition = (*TRANSITION, "act_next")
    training_stats = FQETrainingStats
    diagnostics = ("q_mean", "target_q_mean")
    steps = (train_step,)

    def __init__(
        self,
        *,
        critic: nn.Module,
        critic_optim: OptimizerFactory,
        gamma: float = 0.99,
        tau: float = 0.005,
        v_min: float = -inf,
        v_max: float = inf,
    ) -> None:
        super().__init__(policy=None)  # it learns none
        require("gamma", gamma, GAMMA)
        require("tau", tau, TAU)
        if not v_min <= v_max:
            raise ValueError(f"v_min={v_min}, v_max={v_max}: v_min must not be above v_max")
        self.gamma, self.tau = gamma, tau
        self.v_min, self.v_max = v_min, v_max
        self.critic = critic
        self.critic_target = self._add_lagged_network(critic)
        self._optimizers = {"critic": optimizer_for(critic, critic_optim)}

    @classmethod
    def from_parts(
        cls,
        *,
        sizes: Mapping[str, int],
        critic: Callable[..., nn.Module],
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> FQE:
        return cls(critic=critic(**sizes), critic_optim=critic_optim, **hyperparameters)

    @property
    def networks(self) -> Networks:
        return Networks(broadcasting(self.critic), broadcasting(self.critic_target))

    @property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(self.gamma, self.tau, self.v_min, self.v_max)

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)
