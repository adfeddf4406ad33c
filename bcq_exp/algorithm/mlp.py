"""Multilayer perceptrons as one differentiable operation.

A training step of BCQ spends its time in these: at the paper's sizes in the matrix products, with
small networks in everything around them. So forward and backward are written out once, ReLUs are
in place, and the products can be computed in bfloat16 while parameters, gradients and results stay
as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last one is linear.

    ``forward`` takes (..., in_dim) and returns (..., out_dim) in the input's type.
    ``compute_dtype`` is the type of the matrix products, ``None`` that of the parameters.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(self, in_dim: int, hidden_sizes: Sequence[int], out_dim: int) -> None:
        super().__init__()
        sizes = [in_dim, *hidden_sizes, out_dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        params = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        rows = x.reshape(-1, x.shape[-1])
        y = _MLPFunction.apply(self.compute_dtype or x.dtype, rows, *params)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class _MLPFunction(torch.autograd.Function):
    """Forward and backward of an MLP over rows (R, I), for parameters weight, bias, weight, ..."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, x: Tensor, *params: Tensor) -> Tensor:
        weights, biases = ([p.to(dtype) for p in params[i::2]] for i in (0, 1))
        inputs: list[Tensor] = []
        y = x.to(dtype)
        for weight, bias in zip(weights, biases, strict=True):
            inputs.append(y.relu_() if inputs else y)  # in place: only what passed is needed again
            y = linear(inputs[-1], weight, bias)
        ctx.save_for_backward(*inputs, *weights)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        num_layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers:]
        (_, of_x_wanted, *of_params_wanted), dtype = ctx.needs_input_grad, grads[0].dtype
        grad = grads[0].to(inputs[0].dtype)
        of_params: list[Tensor | None] = []
        for i in reversed(range(num_layers)):
            if of_params_wanted[2 * i]:
                of_params += [grad.sum(0, dtype=dtype), (grad.t() @ inputs[i]).to(dtype)]
            else:
                of_params += [None, None]
            if i > 0:  # through the layer, then through the ReLU before it
                grad = torch.ops.aten.threshold_backward(grad @ weights[i], inputs[i], 0)
        of_x = (grad @ weights[0]).to(dtype) if of_x_wanted else None
        return None, of_x, *reversed(of_params)


def choose_compute_dtype(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Compute the products of every MLP inside ``module`` in ``dtype`` from now on."""
    for part in module.modules():
        if isinstance(part, MLP):
            part.compute_dtype = dtype


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the network, none are computed for its own parameters."""
    params = [p for p in module.parameters() if p.requires_grad]
    for param in params:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in params:
            param.requires_grad_(True)
