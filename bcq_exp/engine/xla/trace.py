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
from bcq_exp.engine.xla.operators import ELEMENTWISE, OPERATORS, PRODUCTS, jax_dtype
from bcq_exp.errors import first_line

Layout = tuple[int, tuple[int, ...], tuple[int, ...]]  # a tensor's place in memory


class Trace(TorchDispatchMode):
    """Applies each operator that torch runs to JAX's values, which it keeps by tensor.

    Tensors are identified by their place in memory, so that an alias has the value of its source. A
    write makes other views of the same elements unreadable. Of a matrix and its transpose one value
    is kept; operators on single elements are applied to that one, whichever torch applies them to.

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

    def value(self, tensor: Tensor, *, transposed: bool = False) -> Array:
        """Return the present value of a tensor, or of its transpose.

        Raises:
            UntraceableError: if it was written to through another view.
        """
        values, layout = self._values_at(tensor), _layout(tensor, transposed)
        if (value := values.get(layout)) is not None:
            return value
        if (value := values.get(_transposed(layout))) is not None:
            return value.T
        if layout in values:
            raise UntraceableError(
                "a tensor is written to through one view and read through another"
            )
        self.num_constants += 1
        self._keep(tensor, to_jax(tensor))
        return self.value(tensor, transposed=transposed)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":  # marks for torch's profiler
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in PRODUCTS:
            are_transposed = [self._is_kept_transposed(factor) for factor in args[-2:]]
            lowered: Callable[..., Any] = partial(PRODUCTS[name], transposed=are_transposed)
        else:
            lowered = _lowered(func, name)
        turned = self._turned(name, args)
        given = pytree.tree_map_only(
            Tensor, lambda x: self.value(x, transposed=id(x) in turned), (args, kwargs)
        )
        try:
            computed = lowered(*given[0], **given[1])
        except (TypeError, NotImplementedError, ValueError, IndexError) as error:
            raise UntraceableError(f"{func}: {first_line(error)}") from error
        result = func(*args, **kwargs)
        if name in ("t", "transpose") and result.ndim == 2:
            self._alive.append(result)  # the value of the other view is kept
            return result
        written = list(_written(func, args, kwargs))
        for tensor in written:
            self._forget_views_of(tensor)
        if name in PRODUCTS:
            value, is_transposed = computed
            self._keep(result, value, transposed=is_transposed)
        else:
            self._keep_all(written or result, computed, written or args, turned)
        return result

    def _turned(self, name: str, args: Sequence[Any]) -> set[int]:
        """The ids of matrices whose transposes an operator is applied to, as those are kept."""
        if name not in ELEMENTWISE:
            return set()
        lists = [x for x in args if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
        alone = [x for x in args if isinstance(x, Tensor)]
        found: set[int] = set()
        for group in zip(*lists, strict=True) if lists else [alone]:
            arrays = [x for x in group if x.ndim]
            alike = all(x.ndim == 2 and x.shape == arrays[0].shape for x in arrays)
            if alike and any(map(self._is_kept_transposed, arrays)):
                found |= {id(x) for x in arrays}
        return found

    def _is_kept_transposed(self, tensor: Tensor) -> bool:
        values, layout = self._values_at(tensor), _layout(tensor)
        return values.get(layout) is None and values.get(_transposed(layout)) is not None

    def _keep_all(self, tensors: Any, values: Any, like: Any, turned: set[int]) -> None:
        """Keep results, each as its transpose where that of its tensor in ``like`` was used."""
        tensors, like = pytree.tree_leaves(tensors), pytree.tree_leaves(like)
        for i, (tensor, value) in enumerate(zip(tensors, pytree.tree_leaves(values), strict=True)):
            if tensor is not None:  # a gradient that is not wanted
                self._keep(tensor, value, transposed=bool(turned) and id(like[i]) in turned)

    def _keep(self, tensor: Tensor, value: Array, *, transposed: bool = False) -> None:
        layout = _layout(tensor, transposed)
        if value.shape != layout[1]:
            raise UntraceableError(f"a result of shape {value.shape}, not {layout[1]}")
        self._values_at(tensor)[layout] = value.astype(jax_dtype(tensor.dtype))
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


def _layout(tensor: Tensor, transposed: bool = False) -> Layout:
    layout = int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
    return _transposed(layout) if transposed else layout


def _transposed(layout: Layout) -> Layout:
    """The layout of a matrix's transpose."""
    offset, shape, strides = layout
    return (offset, shape[::-1], strides[::-1]) if len(shape) == 2 else layout


def _span(layout: Layout) -> tuple[int, int]:
    """Return the first element of a layout, and the one after its last."""
    offset, shape, strides = layout
    return offset, offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _lowered(func: OpOverload, name: str) -> Callable[..., Any]:
    """Return the function of JAX's values for an operator of torch."""
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
