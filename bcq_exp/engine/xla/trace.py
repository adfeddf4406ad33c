"""Run torch's operators on JAX's values while JAX traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bcq_exp.engine.xla import UntraceableError
from bcq_exp.engine.xla.operators import DTYPES, OPERATORS, PRODUCTS

Layout = tuple[int, torch.Size, tuple[int, ...]]  # a tensor's place in memory


class Trace(TorchDispatchMode):
    """Applies each operator that torch runs to JAX's values, which it keeps by tensor.

    Tensors are identified by their place in memory, so that an alias has the value of its source. A
    write makes other views of the same elements unreadable.

    Args:
        tensors: the tensors with values at the start; all others are constants.
        values: JAX's values, of the same shapes and types.
    """

    def __init__(self, tensors: Sequence[Tensor], values: Sequence[Array]) -> None:
        super().__init__()
        self._memory: dict[int, dict[Layout, Array | None]] = {}
        self._alive: list[Tensor] = []  # so that its memory is not reused
        self.num_constants = 0
        for tensor, value in zip(tensors, values, strict=True):
            self._keep(tensor, value)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its own compiler, which takes a second

    def value(self, tensor: Tensor) -> Array:
        """Return the present value of a tensor.

        Raises:
            UntraceableError: if it was written to through another view.
        """
        values = self._values_at(tensor)
        layout = _layout(tensor)
        if layout not in values:
            self.num_constants += 1
            self._keep(tensor, to_jax(tensor))
        value = values[layout]
        if value is None:
            raise UntraceableError(
                "a tensor is written to through one view and read through another"
            )
        return value

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":  # marks for torch's profiler
            return func(*args, **kwargs)
        lowered = _lowered(func, args)
        given = pytree.tree_map_only(Tensor, self.value, (args, kwargs))
        try:
            computed = lowered(*given[0], **given[1])
        except (TypeError, NotImplementedError) as error:
            raise UntraceableError(f"{func}: {error}") from error
        result = func(*args, **kwargs)
        written = list(_written(func, args, kwargs))
        if written:
            for tensor in written:
                self._forget_views_of(tensor)
        self._keep_all(written or result, computed)
        return result

    def _keep_all(self, tensors: Any, values: Any) -> None:
        if isinstance(tensors, Tensor):
            tensors, values = [tensors], [values]
        for tensor, value in zip(
            pytree.tree_leaves(tensors), pytree.tree_leaves(values), strict=True
        ):
            self._keep(tensor, value)

    def _keep(self, tensor: Tensor, value: Array) -> None:
        if value.shape != tuple(tensor.shape):
            raise UntraceableError(f"a result of shape {value.shape}, not {tuple(tensor.shape)}")
        self._values_at(tensor)[_layout(tensor)] = value.astype(DTYPES[tensor.dtype])
        self._alive.append(tensor)

    def _values_at(self, tensor: Tensor) -> dict[Layout, Array | None]:
        return self._memory.setdefault(tensor.untyped_storage().data_ptr(), {})

    def _forget_views_of(self, tensor: Tensor) -> None:
        first, last = _span(_layout(tensor))
        values = self._values_at(tensor)
        for layout in values:
            start, end = _span(layout)
            if start < last and first < end:
                values[layout] = None


def to_jax(tensor: Tensor) -> Array:
    """A copy of a tensor's elements; jnp.array would compile a program for each shape."""
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:  # NumPy has no such type
        return jax.device_put(plain.float().numpy().astype(jnp.bfloat16))
    return jax.device_put(plain.numpy().copy())


def to_torch(value: Array) -> Tensor:
    """View the elements of a JAX array, for a copy."""
    if value.dtype == jnp.bfloat16:
        value = value.astype(jnp.float32)
    return torch.from_numpy(np.array(value))


def _layout(tensor: Tensor) -> Layout:
    return int(tensor.storage_offset()), tensor.shape, tensor.stride()


def _span(layout: Layout) -> tuple[int, int]:
    """Return the first element of a layout, and the one after its last."""
    offset, shape, strides = layout
    return offset, offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _lowered(func: OpOverload, args: Sequence[Any]) -> Callable[..., Any]:
    """Return the function of JAX's values for an operator of torch, called with ``args``."""
    name = func.overloadpacket.__name__.removesuffix("_")
    if name in PRODUCTS:
        transposed = [matrix.stride(-2) == 1 for matrix in args[-2:]]
        return partial(PRODUCTS[name], transposed=transposed)
    if name in OPERATORS:
        return OPERATORS[name]
    element = OPERATORS.get(name.removeprefix("_foreach_"))
    if element is None or not name.startswith("_foreach_"):
        raise UntraceableError(f"no XLA program for the operator {func}")
    return _for_each(element)


def _for_each(element: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Make an operator over lists of tensors from the one over their elements."""

    def of_lists(*args: Any, **kwargs: Any) -> list[Any]:
        count = len(args[0])
        each = [x if isinstance(x, list | tuple) else [x] * count for x in args]
        return [element(*values, **kwargs) for values in zip(*each, strict=True)]

    return of_lists


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Return the tensors that an operator writes to, in the order of its schema."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from pytree.tree_leaves(args[i] if i < len(args) else kwargs.get(argument.name))
