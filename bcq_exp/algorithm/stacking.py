"""Compute losses of one run for K stacked runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from bcq_exp.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

REPLACES = (
    "a pure network replaces a buffer; change it in place, as by copy_, or declare pure = False"
)


class StackedNetwork:
    """K networks of one architecture, for functions that are :func:`per_run`.

    Args:
        networks: the networks; from now on their tensors are views of the stacked ones.

    Raises:
        UserError: if they differ in a number that is not a tensor, which the stack would share.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        first = constants(networks[0])
        for other in map(constants, networks):
            if differing := sorted(name for name, value in first.items() if other[name] != value):
                raise UserError(
                    f"{type(networks[0]).__name__}: stacked runs differ in {', '.join(differing)}; "
                    "make it a buffer of the network, or set pure = False"
                )
        self._template, self._own = networks[0], _tensors(networks[0])
        self.tensors = [share(same) for same in zip(*map(_tensors, networks), strict=True)]

    def __call__(self, *inputs: Any) -> None:
        """Refuse to be called by functions that are not :func:`per_run`.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{type(self._template).__name__}: called outside a @per_run function; stacked runs "
            "call networks only inside one"
        )

    def parameters(self) -> Iterator[Tensor]:
        """The stacked parameters, in the order of each network's own."""
        for tensor, own in zip(self.tensors, self._own, strict=True):
            if isinstance(own, nn.Parameter):
                yield tensor

    def one(self, tensors: Sequence[Tensor]) -> nn.Module:
        """Make a network of one run's tensors.

        Raises:
            UserError: if a step of the run alone replaced one of them.
        """
        by_id: dict[int, Tensor | None] = dict(zip(map(id, self._own), tensors, strict=True))
        try:
            return _rebuilt(self._template, {**by_id, id(None): None})
        except KeyError as error:
            raise UserError(REPLACES) from error


def per_run(function: Callable[P, R]) -> Callable[P, R]:
    """Compute a function of one run for K stacked runs, where one of its networks is stacked.

    Its tensors then have a leading K, and so have its results (``torch.vmap``). Arguments that are
    neither networks nor tensors are the same for all runs. Without a stack nothing changes.
    """

    @wraps(function)
    def of_runs(*args: P.args, **kwargs: P.kwargs) -> R:
        given: list[Any] = [*args, *kwargs.values()]
        if not any(isinstance(x, StackedNetwork) for x in given):
            return function(*args, **kwargs)

        def of_one(*values: Any) -> R:
            own = [
                x.one(value) if isinstance(x, StackedNetwork) else value
                for x, value in zip(given, values, strict=True)
            ]
            by_name = dict(zip(kwargs, own[len(args) :], strict=True))
            return function(*own[: len(args)], **by_name)  # type: ignore[arg-type]

        dims = tuple(0 if isinstance(x, StackedNetwork | Tensor) else None for x in given)
        tensors = (x.tensors if isinstance(x, StackedNetwork) else x for x in given)
        return torch.vmap(of_one, dims)(*tensors)

    return of_runs


def constants(network: nn.Module) -> dict[str, Any]:
    """Return a network's numbers and strings that are not tensors, by dotted name."""
    return {
        f"{module_name}.{name}".lstrip("."): value
        for module_name, module in network.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str)
    }


def share(tensors: Sequence[Tensor]) -> Tensor:
    """Stack the tensors (K, ...); each becomes a view of its row."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, stacked, strict=True):
        tensor.data = row
    return stacked.requires_grad_(tensors[0].requires_grad)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _rebuilt(module: nn.Module, tensors: Mapping[int, Tensor | None]) -> nn.Module:
    """A module like ``module`` around other tensors, by the ids of its own."""
    clone = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        slots = module.__dict__[kind]
        clone.__dict__[kind] = {name: tensors[id(own)] for name, own in slots.items()}
    clone.__dict__["_modules"] = {
        name: None if part is None else _rebuilt(part, tensors)
        for name, part in module._modules.items()
    }
    return clone
