"""Two critics with target networks, which IQL, CQL and TD3+BC share (Fujimoto et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import Watch, diverging_q
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Optimizers,
    TPolicy,
    TrainingStats,
)
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.networks import redrawn
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for


@dataclass(kw_only=True)
class TwinCriticTrainingStats(TrainingStats):
    """The losses of one update."""

    actor_loss: float
    critic1_loss: float
    critic2_loss: float


def fit_critics(
    nets: Any, optimizers: Optimizers, batch: Batch, target: Tensor
) -> dict[str, Tensor]:
    """Step both critics towards ``target`` (B, 1); return their metrics."""
    loss1, q1_mean = losses.critic_loss(nets.critic, batch.obs, batch.act, target)
    loss2, q2_mean = losses.critic_loss(nets.critic2, batch.obs, batch.act, target)
    optimizers["critic"].apply(loss1)
    optimizers["critic2"].apply(loss2)
    return {
        "critic1_loss": loss1,
        "critic2_loss": loss2,
        "q1_mean": q1_mean,
        "q2_mean": q2_mean,
        "target_q_mean": target.mean((-2, -1)),
    }


class TwinCriticAlgorithm(OfflineAlgorithm[TPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """An algorithm with two critics and their target networks.

    Args:
        policy: the policy that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        critic_optim: optimizer of each critic.
        hyperparameters: fields of ``Hyperparameters``.

    Raises:
        ValueError: if a number is out of its range, or no weight of the second critic can be drawn.
    """

    watches: tuple[Watch, ...] = (diverging_q("q1_mean", "q2_mean"),)

    def __init__(
        self,
        *,
        policy: TPolicy,
        critic: nn.Module,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, **hyperparameters)
        self.critic, self.critic2 = critic, redrawn(critic)
        self.critic_target = self._add_lagged_network(critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self.optimizers = {
            "critic": optimizer_for(self.critic, critic_optim),
            "critic2": optimizer_for(self.critic2, critic_optim),
        }

    @property
    def critics(self) -> dict[str, Any]:
        """Return both critics and their targets, by the names in ``networks``."""
        names = ("critic", "critic2", "critic_target", "critic2_target")
        return {name: getattr(self, name) for name in names}

    def value(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.critic(obs, act).squeeze(-1)
