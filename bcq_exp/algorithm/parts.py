"""What a configuration composed for an algorithm: networks, optimizers, policy, numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from bcq_exp.algorithm.optim import OptimizerFactory


class MakeNetwork(Protocol):
    """Makes the network of a group."""

    def __call__(self, name: str, /, **options: Any) -> nn.Module:
        """A network with initial weights, in the run's dtype and on its device.

        Args:
            name: of the group, whose ``_target_`` takes its other keys and ``sizes``.
            options: further arguments, or others in place of ``sizes``.
        """


@dataclass(frozen=True)
class Parts:
    """The parts that :meth:`OfflineAlgorithm.build` puts an algorithm together from.

    Args:
        network: makes the network of a group, by the group's name.
        optimizer: the optimizer factory of a group, by the group's name.
        policy: keywords of a :class:`~bcq_exp.algorithm.policy.Policy`: the spaces and the group
            ``policy``.
        hyperparameters: the numbers of the group ``algo``, by name.
        sizes: ``obs_dim`` and ``act_dim``, which is the number of discrete actions.
        bounds: ``low`` and ``high`` (A,) of the policy's actions, for networks that need them; None
            of discrete actions.
        place: converts a module made otherwise to the run's dtype, and moves it to its device.
    """

    network: MakeNetwork
    optimizer: Callable[[str], OptimizerFactory]
    policy: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    sizes: Mapping[str, int]
    bounds: Mapping[str, Any]
    place: Callable[[Any], Any]
