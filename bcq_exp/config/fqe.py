"""The numbers of a fitted Q evaluation, which ``select`` and ``trainer.fqe_steps`` give."""

from __future__ import annotations

from dataclasses import dataclass


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
        tau: share of the critic that its target takes each step.
        seed: of weights, episodes and batches.
    """

    num_steps: int = 20_000
    batch_size: int = 256
    num_members: int = 5
    hidden_sizes: tuple[int, ...] = (64, 64)
    lr: float = 1e-3
    gamma: float = 0.99
    tau: float = 0.005
    seed: int = 0
