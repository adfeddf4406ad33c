"""Multilayer perceptrons as one differentiable operation.

A training step of BCQ spends its time here: in matrix products at the paper's sizes, in overhead
with small networks. Forward and backward are therefore written out, ReLUs are in place, and
products can be computed in bfloat16 while parameters, gradients and results keep their type.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

FEW_COLUMNS = 16  # columns of a product that BLAS computes several times faster as its transpose
FEW_ROWS = 32  # of which a product takes less time than the weights' cast to another type


class HasComputeDtype:
    """A module whose matrix products are computed in ``compute_dtype``.

    ``None`` is the type of the parameters, which an :class:`MLP` of few rows uses in any case. The
    result has the type of the input.
    """

    compute_dtype: torch.dtype | None = None


class MLP(HasComputeDtype, nn.Module):
    """Linear layers with ReLU between them; the last one is linear.

    ``forward`` takes (..., in_dim) and returns (..., out_dim) in the input's type, a TypeError if
    that is no floating-point type.
    """

    def __init__(self, in_dim: int, hidden_sizes: Sequence[int], out_dim: int) -> None:
        super().__init__()
        sizes = [in_dim, *hidden_sizes, out_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # a file is faster without the custom backward
            for i, layer in enumerate(self.layers):
                x = layer(x.relu() if i else x)
            return x
        if not x.dtype.is_floating_point:  # would round the weights
            raise TypeError(f"inputs of a network must be floats, not {x.dtype}")
        params = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        rows = x.reshape(-1, x.shape[-1])
        dtype = self.compute_dtype
        if dtype is None or len(rows) < FEW_ROWS:
            dtype = x.dtype
        y, *_ = _MLPFunction.apply(dtype, rows, *params)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class _MLPFunction(torch.autograd.Function):
    """Forward and backward of an MLP over rows (R, I), for parameters weight, bias, weight, ...

    ``torch.vmap`` turns it into one call for K networks of one shape, each with its own rows
    (K, R, I).
    """

    @staticmethod
    def forward(dtype: torch.dtype, x: Tensor, *params: Tensor) -> tuple[Tensor, ...]:
        """Return the result and the inputs and weights of each layer for backward."""
        weights, biases = ([p.to(dtype) for p in params[i::2]] for i in (0, 1))
        inputs: list[Tensor] = []
        y = x.to(dtype)
        for weight, bias in zip(weights, biases, strict=True):
            inputs.append(y.relu_() if inputs else y)  # in place: only what passed is needed again
            y = _linear(inputs[-1], weight, bias)
        return y.to(x.dtype), *(t.detach() for t in (*inputs, *weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, *needed = output
        ctx.mark_non_differentiable(*needed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*needed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if grads[0] is None:  # nothing depends on the result
            return (None,) * len(ctx.needs_input_grad)
        num_layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers:]
        (_, of_x_wanted, *of_params_wanted), dtype = ctx.needs_input_grad, grads[0].dtype
        grad = grads[0].to(inputs[0].dtype)
        of_params: list[Tensor | None] = []
        for i in reversed(range(num_layers)):
            if of_params_wanted[2 * i]:
                of_weight = _product(grad.mT, inputs[i]).to(dtype).contiguous()
                of_params += [grad.sum(-2, dtype=dtype), of_weight]
            else:
                of_params += [None, None]
            if i > 0:  # through the layer, then through the ReLU before it
                grad = torch.ops.aten.threshold_backward(_product(grad, weights[i]), inputs[i], 0)
        of_x = _product(grad, weights[0]).to(dtype) if of_x_wanted else None
        return None, of_x, *reversed(of_params)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], dtype: torch.dtype, *tensors: Tensor) -> Any:
        stacked = [
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        results = _MLPFunction.apply(dtype, *stacked)
        return results, (0,) * len(results)


# torch reads it at every call, and looking it up takes a fifth of the call
_MLPFunction.forward.__signature__ = inspect.signature(_MLPFunction.forward)  # type: ignore[attr-defined]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b of one network, (R, I) -> (R, O), or of K stacked ones, (K, R, I) -> (K, R, O)."""
    if weight.dim() == 2:
        return linear(x, weight, bias)
    if weight.shape[-2] < FEW_COLUMNS:
        return torch.baddbmm(bias.unsqueeze(2), weight, x.mT).mT
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Compute a b: by its transpose for few columns, without BLAS for sums of one term."""
    if a.shape[-1] == 1:
        return a * b
    return (b.mT @ a.mT).mT if b.shape[-1] < FEW_COLUMNS else a @ b


class Linear(HasComputeDtype, nn.Linear):
    """Torch's linear layer with its product in ``compute_dtype``."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return linear(x.to(dtype), self.weight.to(dtype), bias).to(x.dtype)


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Let a network act: its dropout is off and its batch norm uses running statistics."""
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def trainable(network: Any) -> list[Any]:
    """Return the parameters that have gradients: not frozen ones, not a counter."""
    return [param for param in network.parameters() if param.requires_grad]


@contextmanager
def frozen(network: Any) -> Iterator[None]:
    """Gradients pass through the network, none are computed for its own parameters."""
    params = trainable(network)
    for param in params:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in params:
            param.requires_grad_(True)
