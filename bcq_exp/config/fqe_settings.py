"""The numbers of a fitted Q evaluation, which ``select`` and ``trainer.fqe_steps`` give."""

from __future__ import annotations

import math
from dataclasses import dataclass

LAGS = 5.0  # after which a target has left all but e^-5 of where it began behind
FOLLOWING = 5.0  # steps that a critic takes, about, to be where its target wants it
LONGEST = 1000.0  # steps that a horizon is taken to have at most


@dataclass(frozen=True)
class FQESettings:
    """The numbers of an evaluation.

    Args:
        num_steps: gradient steps.
        batch_size: transitions a step.
        num_members: critics a policy.
        hidden_sizes: of a critic.
        lr: Adam's.
        gamma: discount of the value that is estimated, whatever a run's own.
        tau: share of the critic that its target takes each step; ``None`` is as much as brings the
            targets to their end in these steps.
        seed: of weights, episodes and batches.
        horizon: steps from an episode's beginning whose rewards count; ``None`` is for ever, beyond
            where recorded episodes were cut.
        return_range: what any policy's value, by ``gamma`` and from any step on, is known to lie
            between; ``None`` is what the recorded rewards can come to.
        epsilon: share of uniformly random actions with which importance sampling and doubly robust
            estimates take a policy of discrete actions; fitted Q evaluation takes it as it is.
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
        """``tau``, in (0, 1]. Where critics follow their targets at once, these leave where they
        began as e^(-t / lag), with a lag of 1 / (tau (1 - gamma)) steps."""
        return self.tau or min(1.0, LAGS * self._horizon / self.num_steps)

    @property
    def share_reached(self) -> float:
        """Of the way to their end, the share that the critics go, about."""
        lag = self._horizon * (1 / self.target_tau + FOLLOWING)
        return 1 - math.exp(-self.num_steps / lag)

    @property
    def _horizon(self) -> float:
        return min(LONGEST, self.weight_of_steps(LONGEST))

    def weight_of_steps(self, most: float) -> float:
        """What all steps that count weigh together: ``most`` where that would have no end."""
        if self.horizon is not None:
            return sum(self.gamma**step for step in range(self.horizon))
        return 1 / (1 - self.gamma) if self.gamma < 1 else most
