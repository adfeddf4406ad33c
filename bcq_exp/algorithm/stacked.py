"""K runs of BCQ as one: their tensors stacked, their equations under ``torch.vmap``.

The runs stay what they are: their parameters and their optimizers' moments become views of the
stacked tensors, so each can be evaluated and saved at any time as if it were alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bcq_exp.algorithm.base import Batch, polyak_update
from bcq_exp.algorithm.bcq import BCQ
from bcq_exp.algorithm.optim import Optimizer
from bcq_exp.algorithm.step import STATISTICS, Hyperparameters, Networks, Noise, train_step


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


class StackedBCQ:
    """Takes gradient steps of K runs at once.

    Args:
        runs: of one architecture, batch size and ``num_sampled_action``, with this project's
            networks; they may differ in all else. Those of equal optimizer settings best stand
            side by side.
    """

    def __init__(self, runs: Sequence[BCQ]) -> None:
        self._runs = runs
        self._networks = Networks(*(StackedNetwork.of(same) for same in _by_network(runs)))
        first = next(runs[0].parameters())
        self._hyperparameters = Hyperparameters(
            *(
                torch.tensor(values, dtype=first.dtype, device=first.device)
                for values in zip(*(run.hyperparameters for run in runs), strict=True)
            )
        )
        self._optimizers: dict[str, StackedOptimizer] = {}
        if self.has_stepped:
            self._stack_optimizers()

    def tensor_step(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """As :meth:`BCQ.tensor_step`, everything with a leading K."""
        if not self.has_stepped:
            return self._first_step(batch, noise)
        statistics = train_step(
            self._networks, self._optimizers, self._hyperparameters, batch, noise, torch.vmap
        )
        nets = self._networks
        polyak_update(
            [
                *nets.perturbation_target.parameters(),
                *_both(nets.critic_target, nets.critic2_target),
            ],
            [*nets.perturbation.parameters(), *_both(nets.critic, nets.critic2)],
            self._tau,
        )
        return statistics

    def after_steps(self, count: int) -> None:
        """As :meth:`BCQ.after_steps`."""
        for run in self._runs:
            run.after_steps(count)
        for optimizer in self._stacked_optimizers():
            optimizer.after_steps(count)

    @property
    def has_stepped(self) -> bool:
        """As :attr:`BCQ.has_stepped`."""
        return self._runs[0].has_stepped

    @property
    def has_schedule(self) -> bool:
        """As :attr:`BCQ.has_schedule`."""
        return any(run.has_schedule for run in self._runs)

    @property
    def can_be_captured(self) -> bool:
        """As :attr:`BCQ.can_be_captured`."""
        return all(run.can_be_captured for run in self._runs)

    def state_tensors(self) -> list[Tensor]:
        """As :meth:`BCQ.state_tensors`."""
        params = [param for network in self._networks for param in network.parameters()]
        return [*params, *(x for o in self._stacked_optimizers() for x in o.state_tensors())]

    def _first_step(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Each run by itself: an optimizer has no state to stack before its first step."""
        each = [
            run.tensor_step(
                Batch(**{name: value[k] for name, value in vars(batch).items()}),
                Noise(*(x[k] for x in noise)),
            )
            for k, run in enumerate(self._runs)
        ]
        self._stack_optimizers()
        return {name: torch.stack([values[name] for values in each]) for name in STATISTICS}

    def _stack_optimizers(self) -> None:
        networks = {
            "actor_perturbation": self._networks.perturbation,
            "critic": self._networks.critic,
            "critic2": self._networks.critic2,
            "vae": self._networks.vae,
        }
        self._optimizers = {
            name: StackedOptimizer([run.optimizers[name] for run in self._runs], network)
            for name, network in networks.items()
        }

    def _stacked_optimizers(self) -> Iterator[Optimizer]:
        return (part for stack in self._optimizers.values() for _, part in stack.parts)

    @property
    def _tau(self) -> float | Tensor:
        taus = {run.tau for run in self._runs}
        return taus.pop() if len(taus) == 1 else self._hyperparameters.tau


def _by_network(runs: Sequence[BCQ]) -> Iterator[tuple[nn.Module, ...]]:
    return zip(*(run.networks for run in runs), strict=True)


def _both(first: StackedNetwork, second: StackedNetwork) -> list[Tensor]:
    return [*first.parameters(), *second.parameters()]


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
