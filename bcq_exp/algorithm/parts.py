"""The parts of an algorithm: networks, optimizers, policy, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from bcq_exp.algorithm.optim import OptimizerFactory


class Parts(Protocol):
    """The argument of :meth:`OfflineAlgorithm.build`.

    Args:
        policy: keywords of a :class:`~bcq_exp.algorithm.policy.Policy`: the spaces and the group
            ``policy``.
        hyperparameters: the numbers of the group ``algo``, by name.
        sizes: ``obs_dim`` and ``act_dim``, which is the number of actions if they are discrete.
        bounds: ``low`` and ``high`` (A,) of the policy's actions, for networks that need them; None
            of discrete actions.
    """

    policy: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    sizes: Mapping[str, int]
    bounds: Mapping[str, Any]

    def network(self, name: str, /, **options: Any) -> nn.Module:
        """Make a network with initial weights, in the run's dtype and on its device.

        Args:
            name: the group, whose ``_target_`` takes its other keys and ``sizes``.
            options: further arguments, or replacements of ``sizes``.
        """

    def optimizer(self, name: str, /) -> OptimizerFactory:
        """Make the optimizer factory of a group, by name."""

    def place(self, module: Any, /) -> Any:
        """Convert a module that :meth:`network` did not make to the run's dtype and device."""
