"""K runs of an algorithm as one: their tensors stacked, their equations under ``torch.vmap``.

The runs stay what they are: their parameters and their optimizers' moments become views of the
stacked tensors, so each can be evaluated and saved at any time as if it were alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.optim import Optimizer


class StackedNetwork:
    """K networks of one architecture, as a collection of tensors to ``torch.vmap``.

    What the mapped function is given has one network's tensors, and is called as that network is.

    Args:
        template: one of them, whose structure all have.
        tensors: parameters and buffers (K, ...), in the order of :func:`_tensors`.
    """

    def __init__(self, template: nn.Module, tensors: Sequence[Tensor]) -> None:
        self.template = template
        self.tensors = list(tensors)

    @classmethod
    def of(cls, networks: Sequence[nn.Module]) -> StackedNetwork:
        """Stacks the networks; from then on their tensors are views of the stacked ones."""
        return cls(
            networks[0], [_share(same) for same in zip(*map(_tensors, networks), strict=True)]
        )

    def parameters(self) -> Iterator[Tensor]:
        """The stacked parameters, in the order of each network's own."""
        for tensor, own in zip(self.tensors, _tensors(self.template), strict=True):
            if isinstance(own, nn.Parameter):
                yield tensor

    def __call__(self, *inputs: Tensor) -> Any:
        return _rebuilt(self.template, iter(self.tensors))(*inputs)

    def decode(self, *inputs: Tensor) -> Tensor:
        return _rebuilt(self.template, iter(self.tensors)).decode(*inputs)  # type: ignore[operator]


class StackedOptimizer:
    """The optimizers of one network of each run; runs with the same settings step as one."""

    def __init__(self, optimizers: Sequence[Optimizer], network: StackedNetwork) -> None:
        self._params = list(network.parameters())
        self.parts: list[tuple[slice, Optimizer]] = []
        start = 0
        for _, same in groupby(optimizers, key=lambda optimizer: optimizer.factory):
            group = list(same)
            runs = slice(start, start + len(group))
            params = [nn.Parameter(param.detach()[runs]) for param in self._params]
            self.parts.append((runs, Optimizer.stacked(group, params)))
            start = runs.stop

    def apply(self, loss: Tensor) -> None:
        """Step every run down its own loss (K,): none depends on another's parameters."""
        grads = torch.autograd.grad(loss.sum(), self._params)
        for runs, optimizer in self.parts:
            optimizer.apply_gradients([grad[runs] for grad in grads])


class StackedRuns:
    """Takes gradient steps of K runs at once.

    Args:
        runs: of one algorithm, architecture and batch size, with pure networks; they may differ
            in their hyperparameters, optimizers, and the buffers of their networks. Those of equal
            optimizer settings best stand side by side.
    """

    def __init__(self, runs: Sequence[OfflineAlgorithm]) -> None:
        self._runs = runs
        first = runs[0]
        self.steps = first.steps
        by_network = zip(*(run.networks for run in runs), strict=True)
        self._networks = type(first.networks)._make(StackedNetwork.of(same) for same in by_network)
        param = next(first.parameters())
        values = zip(*(run.hyperparameters for run in runs), strict=True)
        self._over_runs = OverRuns(param)
        self._hyperparameters = type(first.hyperparameters)._make(
            map(self._over_runs.joined, values)
        )
        self._optimizers: dict[str, StackedOptimizer] = {}
        if self.num_steps >= len(self.steps):
            self._stack_optimizers()

    def statistics(self) -> tuple[str, ...]:
        """As :meth:`OfflineAlgorithm.statistics`."""
        return self._runs[0].statistics()

    def tensor_step(
        self, batch: Batch, noise: Any, turn: int = 0, hyperparameters: Any = None
    ) -> dict[str, Tensor]:
        """As :meth:`OfflineAlgorithm.tensor_step`, everything with a leading K."""
        if not self._optimizers:
            return self._step_apart(batch, noise, turn)
        return self.steps[turn](
            self._networks,
            self._optimizers,
            self._hyperparameters if hyperparameters is None else hyperparameters,
            batch,
            noise,
            self._over_runs,
        )

    def after_steps(self, count: int) -> None:
        """As :meth:`OfflineAlgorithm.after_steps`."""
        for run in self._runs:
            run.after_steps(count)
        for optimizer in self.all_optimizers():
            optimizer.after_steps(count)
        if not self._optimizers and self.num_steps >= len(self.steps):
            self._stack_optimizers()

    @property
    def num_steps(self) -> int:
        """As :attr:`OfflineAlgorithm.num_steps`."""
        return self._runs[0].num_steps

    @property
    def has_schedule(self) -> bool:
        """As :attr:`OfflineAlgorithm.has_schedule`."""
        return any(run.has_schedule for run in self._runs)

    @property
    def can_be_compiled(self) -> bool:
        """As :attr:`OfflineAlgorithm.can_be_compiled`."""
        return all(run.can_be_compiled for run in self._runs)

    def state_tensors(self) -> list[Tensor]:
        """As :meth:`OfflineAlgorithm.state_tensors`."""
        params = [param for network in self._networks for param in network.parameters()]
        return [*params, *(x for o in self.all_optimizers() for x in o.state_tensors())]

    def all_optimizers(self) -> list[Optimizer]:
        """As :meth:`OfflineAlgorithm.all_optimizers`."""
        return [part for stack in self._optimizers.values() for _, part in stack.parts]

    def _step_apart(self, batch: Batch, noise: Any, turn: int) -> dict[str, Tensor]:
        """Each run by itself: an optimizer has no state to stack before its first step."""
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
                [run.optimizers[name] for run in self._runs], getattr(self._networks, name)
            )
            for name in self._runs[0].optimizers
        }


class OverRuns:
    """Makes of a function of one run one of K (``over_runs`` of a step): ``torch.vmap``.

    A hyperparameter that all runs share is a (K,) tensor to vmap, to all else the number.

    Args:
        like: of the dtype and on the device that hyperparameters become tensors in.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._one_each: dict[float, Tensor] = {}

    def joined(self, values: Sequence[float]) -> float | Tensor:
        """The runs' values of one number: that number, or (K,) where they differ."""
        stacked = self._like.new_tensor(values)
        if len(set(values)) > 1:
            return stacked
        self._one_each[values[0]] = stacked
        return values[0]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def of_all(*arguments: Any, **keywords: Any) -> Any:
            leaves, structure = pytree.tree_flatten((arguments, keywords))
            leaves = [self._one_each.get(x, x) if isinstance(x, float) else x for x in leaves]
            mapped = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

            def of_one(*tensors: Tensor) -> Any:  # what is no tensor is the same for every run
                filled = dict(enumerate(leaves)) | dict(zip(mapped, tensors, strict=True))
                given, named = pytree.tree_unflatten(filled.values(), structure)
                return function(*given, **named)

            return torch.vmap(of_one)(*(leaves[i] for i in mapped))

        return of_all


def _share(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors stacked (K, ...); each of them becomes a view of its row."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, stacked, strict=True):
        tensor.data = row
    return stacked.requires_grad_(tensors[0].requires_grad)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer, module by module from the top down."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values()):
            if tensor is not None:
                yield tensor


def _rebuilt(module: nn.Module, tensors: Iterator[Any]) -> nn.Module:
    """A module like ``module`` around other tensors, in the order of :func:`_tensors`."""
    clone = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        slots = module.__dict__[kind]
        clone.__dict__[kind] = {k: None if t is None else next(tensors) for k, t in slots.items()}
    clone.__dict__["_modules"] = {
        name: None if part is None else _rebuilt(part, tensors)
        for name, part in module._modules.items()
    }
    return clone


pytree.register_pytree_node(
    StackedNetwork,
    lambda network: (network.tensors, network.template),
    lambda tensors, template: StackedNetwork(template, list(tensors)),
)
