"""The settings of fitted Q evaluation, for ``select`` and ``trainer.objective=fqe``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LAGS = 5.0  # lags after which e^-5 of a target's initial value remains
FOLLOWING = 5.0  # approximate steps in which a critic reaches its target
LONGEST = 1000.0  # cap on the steps of a horizon
OF_VALUE = ("gamma", "horizon")  # settings that define the value; others decide how it is estimated


@dataclass(frozen=True)
class FQESettings:
    """The settings of an evaluation.

    Args:
        num_steps: gradient steps.
        batch_size: transitions per step.
        num_members: critics per policy.
        hidden_sizes: hidden layers of a critic.
        lr: learning rate of Adam.
        gamma: discount of the estimated value, independent of the runs' own.
        tau: Polyak coefficient of target networks; ``None`` chooses one with which targets converge
            in these steps.
        seed: seed of weights, episodes and batches.
        horizon: steps from an episode's beginning whose rewards count; ``None`` is infinite, beyond
            the cut of recorded episodes.
        return_range: known bounds of any policy's value, discounted by ``gamma``, from any step on;
            ``None`` computes bounds from the recorded rewards.
        epsilon: share of uniformly random actions added to a policy of discrete actions in
            importance sampling and doubly robust estimates; fitted Q evaluation adds none.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    num_members: int = 5
    hidden_sizes: tuple[int, ...] = (64, 64)
    lr: float = 1e-3
    gamma: float = 0.99
    tau: float | None = None
    seed: int = 0
    horizon: int | None = None
    return_range: tuple[float, float] | None = None
    epsilon: float = 0.01

    @property
    def target_tau(self) -> float:
        """``tau``, in (0, 1]. If critics follow their targets at once, the targets' initial values
        decay as e^(-t / lag), with a lag of 1 / (tau (1 - gamma)) steps."""
        return self.tau or min(1.0, LAGS * self._horizon / self.num_steps)

    @property
    def share_reached(self) -> float:
        """The approximate share of convergence that the critics reach."""
        lag = self._horizon * (1 / self.target_tau + FOLLOWING)
        return 1 - math.exp(-self.num_steps / lag)

    @property
    def _horizon(self) -> float:
        return min(LONGEST, self.weight_of_steps(LONGEST))

    def weight_of_steps(self, most: float) -> float:
        """The sum of the discounts of all steps that count, at most ``most``."""
        if self.horizon is not None:
            return sum(self.gamma**step for step in range(self.horizon))
        return 1 / (1 - self.gamma) if self.gamma < 1 else most


def value_key(settings: Mapping[str, Any] | FQESettings) -> tuple[Any, ...]:
    """Return what defines the estimated value; estimates with other keys are not comparable."""
    known = settings if isinstance(settings, Mapping) else asdict(settings)
    return tuple(known.get(name) for name in OF_VALUE)
