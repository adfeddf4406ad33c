"""K runs of an algorithm as one: their tensors are stacked, their losses computed per run.

The runs' parameters and optimizer moments become views of the stacked tensors, so each run can be
evaluated and saved at any time as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from bcq_exp.algorithm.base import OfflineAlgorithm, take
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.mlp import trainable
from bcq_exp.algorithm.optim import Optimizer, gradients
from bcq_exp.algorithm.stacking import StackedNetwork
from bcq_exp.errors import UserError


class StackedOptimizer:
    """The optimizers of one network in each run; equal settings step together."""

    def __init__(self, name: str, optimizers: Sequence[Optimizer], network: StackedNetwork) -> None:
        self._name = name
        self._params = trainable(network)
        self.parts: list[tuple[slice, Optimizer]] = []
        start = 0
        for _, same in groupby(optimizers, key=lambda optimizer: optimizer.factory):
            group = list(same)
            runs = slice(start, start + len(group))
            params = [nn.Parameter(param.detach()[runs]) for param in self._params]
            self.parts.append((runs, Optimizer.stacked(group, params)))
            start = runs.stop

    def apply(self, loss: Tensor) -> None:
        """Step every run down its own loss (K,); no loss depends on another run's parameters.

        Raises:
            UserError: if the loss is not one number of each run.
        """
        if loss.shape != self._params[0].shape[:1]:
            raise UserError(
                f"{self._name}: the loss of {len(self._params[0])} stacked runs must have the "
                f"shape ({len(self._params[0])},), not {tuple(loss.shape)}; compute it in a "
                "@per_run function and do not reduce it outside"
            )
        grads = gradients(loss.sum(), self._params)
        for runs, optimizer in self.parts:
            optimizer.apply_gradients([grad[runs] for grad in grads])


class StackedRuns:
    """Takes gradient steps of K runs at once.

    Args:
        runs: algorithms of one class, architecture and batch size, with pure networks. They may
            differ in hyperparameters, optimizers and buffers of networks. Runs with equal
            optimizer settings should be neighbours, because they step together.
    """

    def __init__(self, runs: Sequence[OfflineAlgorithm]) -> None:
        self._runs = runs
        first = runs[0]
        self.steps = first.steps
        by_network = zip(*(run.networks for run in runs), strict=True)
        self._networks = type(first.networks)._make(map(StackedNetwork, by_network))
        self._hyperparameters = _joined_hyperparameters(runs)
        self._optimizers: dict[str, StackedOptimizer] = {}
        if self.num_steps >= len(self.steps):
            self._stack_optimizers()

    def statistics(self) -> tuple[str, ...]:
        """See :meth:`OfflineAlgorithm.statistics`."""
        return self._runs[0].statistics()

    def tensor_step(self, batch: Batch, noise: Any, turn: int = 0) -> dict[str, Tensor]:
        """See :meth:`OfflineAlgorithm.tensor_step`; every tensor has a leading K."""
        if not self._optimizers:
            return self._step_apart(batch, noise, turn)
        return take(
            self.steps[turn],
            self._networks,
            self._optimizers,
            self._hyperparameters,
            batch,
            noise,
        )

    def after_steps(self, count: int) -> None:
        """See :meth:`OfflineAlgorithm.after_steps`."""
        for run in self._runs:
            run.after_steps(count)
        for optimizer in self.all_optimizers():
            optimizer.after_steps(count)
        if not self._optimizers and self.num_steps >= len(self.steps):
            self._stack_optimizers()

    @property
    def num_steps(self) -> int:
        """See :attr:`OfflineAlgorithm.num_steps`."""
        return self._runs[0].num_steps

    @property
    def has_schedule(self) -> bool:
        """See :attr:`OfflineAlgorithm.has_schedule`."""
        return any(run.has_schedule for run in self._runs)

    @property
    def can_be_compiled(self) -> bool:
        """See :attr:`OfflineAlgorithm.can_be_compiled`."""
        return all(run.can_be_compiled for run in self._runs)

    def state_tensors(self) -> list[Tensor]:
        """See :meth:`OfflineAlgorithm.state_tensors`."""
        of_networks = (x for network in self._networks for x in network.tensors)
        return [*of_networks, *(x for o in self.all_optimizers() for x in o.state_tensors())]

    def all_optimizers(self) -> list[Optimizer]:
        """See :meth:`OfflineAlgorithm.all_optimizers`."""
        return [part for stack in self._optimizers.values() for _, part in stack.parts]

    def _step_apart(self, batch: Batch, noise: Any, turn: int) -> dict[str, Tensor]:
        """Step each run alone: an optimizer has no state to stack before its first step."""
        each = [
            run.tensor_step(
                Batch(**{name: value[k] for name, value in vars(batch).items()}),
                type(noise)._make(x[k] for x in noise),
                turn,
            )
            for k, run in enumerate(self._runs)
        ]
        return {name: torch.stack([values[name] for values in each]) for name in each[0]}

    def _stack_optimizers(self) -> None:
        self._optimizers = {
            name: StackedOptimizer(
                name, [run.optimizers[name] for run in self._runs], getattr(self._networks, name)
            )
            for name in self._runs[0].optimizers
        }


def _joined_hyperparameters(runs: Sequence[OfflineAlgorithm]) -> Any:
    """Join the runs' hyperparameters, with a tensor (K,) where they differ.

    Raises:
        ValueError: if they differ in a hyperparameter that is not stackable.
    """
    first, like = runs[0].hyperparameters, next(runs[0].parameters())
    values = {name: [getattr(run.hyperparameters, name) for run in runs] for name in vars(first)}
    differing = {name: each for name, each in values.items() if len(set(each)) > 1}
    if fixed := differing.keys() - set(first.stackable()):
        raise ValueError(f"stacked runs differ in {', '.join(sorted(fixed))}")
    return first.with_tensors({name: like.new_tensor(each) for name, each in differing.items()})
