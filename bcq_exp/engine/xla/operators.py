"""Torch's operators in JAX, the parts of an XLA program of a gradient step.

Keys are the names of ATen's functional operators, with their overload where it matters. An operator
that writes in place (``add_``) is looked up by its functional name, one over lists of tensors
(``_foreach_add``) by that of its elements; :mod:`bcq_exp.engine.xla.trace` assigns the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array

WIDE = 128  # a layer whose product takes longer than a copy of a factor


def jax_dtype(dtype: torch.dtype) -> Any:
    """Return JAX's type of the same name."""
    return jnp.dtype(str(dtype).removeprefix("torch."))


def _add(a: Any, b: Any, alpha: float = 1) -> Array:
    return a + (b if alpha == 1 else alpha * b)


def _sub(a: Any, b: Any, alpha: float = 1) -> Array:
    return a - (b if alpha == 1 else alpha * b)


def _product(a: Array, b: Array, transposed: Sequence[bool]) -> tuple[Array, bool]:
    """Multiply matrices; those of bfloat16 give float32, as in torch's sums.

    XLA multiplies bfloat16 as such only where both are stored row by row, others as float32. So one
    that is not is copied, or the smaller ones of the transposed product.

    Args:
        transposed: whether each is a view of what is stored, its transpose.

    Returns:
        the product, or its transpose, and whether it is the latter: the gradient of a layer's
        weights is that of their transpose, which is stored.
    """
    if a.dtype != jnp.bfloat16:
        if a.ndim == 2 and transposed[0]:
            return jnp.matmul(b.T, a.T), True
        return jnp.matmul(a, b), False
    if a.ndim == 2 and transposed[0]:
        return _in_float32(b.T if transposed[1] else _row_major(b.T), a.T), True
    if a.ndim == 2 and transposed[1] and min(b.shape) >= WIDE:
        if a.size + a.shape[0] * b.shape[1] < b.size:
            return _in_float32(b.T, _row_major(a.T)).T, False
        b = _row_major(b)
    return _in_float32(a, b), False


def _in_float32(a: Array, b: Array) -> Array:
    """Multiply matrices of bfloat16; XLA must not fold transposes into what it chose to run."""
    product = jnp.matmul(a, b, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(product)


def _row_major(x: Array) -> Array:
    """Copy a view of a transpose, so that XLA multiplies it as it is stored."""
    return jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def _matmul(a: Array, b: Array, transposed: Sequence[bool]) -> tuple[Array, bool]:
    product, is_transposed = _product(a, b, transposed)
    return product.astype(a.dtype), is_transposed


def _addmm(
    bias: Array,
    a: Array,
    b: Array,
    beta: float = 1,
    alpha: float = 1,
    *,
    transposed: Sequence[bool],
) -> tuple[Array, bool]:
    product, is_transposed = _product(a, b, transposed)
    product = product.T if is_transposed else product
    return _add(bias if beta == 1 else beta * bias, product, alpha).astype(a.dtype), False


def _lerp(start: Array, end: Array, weight: Any) -> Array:
    return start + weight * (end - start)


def _power(base: Any, exponent: Any) -> Array:
    if isinstance(exponent, float) and exponent == int(exponent):
        exponent = int(exponent)
    return jnp.power(base, exponent)


def _sum(
    x: Array, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Array:
    return jnp.sum(_to(x, dtype), _axes(dim), keepdims=keepdim)


def _axes(dim: int | Sequence[int] | None) -> Any:
    """Convert dimensions to axes; torch's empty list means all of them."""
    if isinstance(dim, int) or dim is None:
        return dim
    return tuple(dim) or None


def _same(x: Array, **_: Any) -> Array:
    return x


def _backward_of(function: Callable[..., Array]) -> Callable[..., Array]:
    """Make the operator that computes the gradient of a function's first argument."""

    def backward(grad: Array, x: Array, *others: Any, **options: Any) -> Array:
        return jax.vjp(lambda x: function(x, *others, **options), x)[1](grad)[0]

    return backward


def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate == "tanh")


def _reduced(loss: Array, reduction: int) -> Array:
    return {0: lambda: loss, 1: loss.mean, 2: loss.sum}[reduction]()


def _mse_loss(x: Array, target: Array, reduction: int = 1) -> Array:
    return _reduced(jnp.square(x - target), reduction)


def _smooth_l1_loss(x: Array, target: Array, reduction: int = 1, beta: float = 1) -> Array:
    off = jnp.abs(x - target)
    return _reduced(jnp.where(off < beta, off * off / (2 * beta), off - beta / 2), reduction)


def _smooth_l1_loss_backward(
    grad: Array, x: Array, target: Array, reduction: int, beta: float
) -> Array:
    scale = 1 / x.size if reduction == 1 else 1
    return grad * scale * jnp.clip((x - target) / beta, -1, 1)


def _scatter_add(x: Array, dim: int, index: Array, source: Array) -> Array:
    where = list(jnp.indices(index.shape, sparse=True))
    where[dim] = index
    return x.at[tuple(where)].add(source[tuple(map(slice, index.shape))])


def _norm(x: Array, ord: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Array:
    if ord != 2:
        raise NotImplementedError
    return jnp.sqrt(jnp.sum(jnp.square(x), _axes(dim), keepdims=keepdim))


def _expand(x: Array, shape: Sequence[int], implicit: bool = False) -> Array:
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [o if n == -1 else n for o, n in zip(own, shape, strict=True)])


def _split(x: Array, size: int | Sequence[int], dim: int = 0) -> list[Array]:
    if isinstance(size, int):
        ends = list(range(size, x.shape[dim], size))
    else:
        ends = [sum(size[: i + 1]) for i in range(len(size) - 1)]
    return jnp.split(x, ends, dim)


def _sliced(
    shape: Sequence[int], dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> tuple[slice, ...]:
    where = [slice(None)] * len(shape)
    where[dim] = slice(start, None if end is None or end > shape[dim] else end, step)
    return tuple(where)


def _at(shape: Sequence[int], dim: int, index: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % len(shape)) + (index,)


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:
    dim %= x.ndim
    where = (slice(None) if i == dim else slice(size) for i, size in enumerate(index.shape))
    return jnp.take_along_axis(x[tuple(where)], index, dim)  # torch takes fewer rows than x has


def _layer_norm(
    x: Array, shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    axes = tuple(range(-len(shape), 0))
    mean = x.mean(axes, keepdims=True)
    inverse_std = jax.lax.rsqrt(jnp.square(x - mean).mean(axes, keepdims=True) + eps)
    y = (x - mean) * inverse_std
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, inverse_std


def _layer_norm_backward(
    grad: Array,
    x: Array,
    shape: Sequence[int],
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    bias: Array | None,
    wanted: Sequence[bool],
) -> tuple[Array | None, ...]:
    axes, rows = tuple(range(-len(shape), 0)), tuple(range(x.ndim - len(shape)))
    unit = (x - mean) * inverse_std
    inner = grad if weight is None else grad * weight
    along = (inner * unit).mean(axes, keepdims=True)
    of_x = inverse_std * (inner - inner.mean(axes, keepdims=True) - unit * along)
    found = of_x, (grad * unit).sum(rows), grad.sum(rows)
    return tuple(g if is_wanted else None for g, is_wanted in zip(found, wanted, strict=True))


def _squeeze(x: Array, dim: int | Sequence[int] | None = None) -> Array:
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(d % x.ndim for d in dims if x.shape[d] == 1))


def _to(x: Array, dtype: torch.dtype | None = None, **_: Any) -> Array:
    return x if dtype is None else x.astype(jax_dtype(dtype))


def _full_like(x: Array, value: Any, dtype: torch.dtype | None = None, **_: Any) -> Array:
    return _to(jnp.full_like(x, value), dtype)


def _full(shape: Sequence[int], value: Any, dtype: torch.dtype | None = None, **_: Any) -> Array:
    return jnp.full(tuple(shape), value, jax_dtype(dtype or torch.float32))


def _fused_adam(
    params: Sequence[Array],
    grads: Sequence[Array],
    means: Sequence[Array],
    squares: Sequence[Array],
    max_squares: Sequence[Array],
    steps: Sequence[Array],
    *,
    lr: Any,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    decoupled: bool = False,
    **_: Any,
) -> list[list[Array]]:
    """Kingma & Ba 2015, algorithm 1; with ``decoupled`` Loshchilov & Hutter 2019, algorithm 2.

    Returns all tensors that the kernel writes: parameters, gradients, first and second moments.
    """
    results: list[list[Array]] = [[], [], [], [], []]
    for param, grad, mean, square, step in zip(params, grads, means, squares, steps, strict=True):
        given, count = grad, step.astype(jnp.float64)  # 1 - 0.999^t needs it at the first steps
        correction1, correction2 = 1 - beta1**count, 1 - beta2**count
        rate = (lr / correction1).astype(param.dtype)
        root = jnp.sqrt(correction2).astype(param.dtype)
        if decoupled:
            param = param * jnp.asarray(1 - lr * weight_decay, param.dtype)
        elif weight_decay:
            grad = grad + weight_decay * param
        mean = _lerp(mean, grad, 1 - beta1)
        square = _lerp(square, jnp.square(grad), 1 - beta2)
        param = param - rate * mean / (jnp.sqrt(square) / root + eps)
        for kept, value in zip(results, (param, given, mean, square), strict=False):
            kept.append(value)
    return results


# of the same name, arguments and meaning in both
_SAME = (
    "abs", "bitwise_and", "bitwise_or", "exp", "isfinite", "log", "logical_and", "logical_not",
    "logical_or", "maximum", "minimum", "reciprocal", "remainder", "round", "sign", "sqrt",
    "square", "tanh", "where",
)  # fmt: skip

# given as well which factors are stored as their transposes; so is what they return
PRODUCTS: dict[str, Callable[..., Any]] = {
    "addmm": _addmm,
    "baddbmm": _addmm,
    "bmm": _matmul,
    "mm": _matmul,
}

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: getattr(jnp, name) for name in _SAME},
    # arithmetic
    "add": _add,
    "addcdiv": lambda x, a, b, value=1: x + value * a / b,
    "addcmul": lambda x, a, b, value=1: x + value * a * b,
    "clamp": lambda x, min=None, max=None: jnp.clip(x, min, max),
    "clamp_max": jnp.minimum,
    "clamp_min": jnp.maximum,
    "div": jnp.divide,
    "lerp": _lerp,
    "mul": jnp.multiply,
    "nan_to_num": lambda x, nan, posinf, neginf: jnp.nan_to_num(
        x, nan=nan, posinf=posinf, neginf=neginf
    ),
    "neg": jnp.negative,
    "pow": _power,
    "rsqrt": jax.lax.rsqrt,
    "sgn": jnp.sign,
    "rsub": lambda x, other, alpha=1: _sub(other, x, alpha),
    "sub": _sub,
    # activations and losses
    "elu": lambda x, alpha=1, scale=1, input_scale=1: (
        scale * jnp.where(x > 0, x, alpha * jnp.expm1(x * input_scale))
    ),
    "gelu": _gelu,
    "gelu_backward": _backward_of(_gelu),
    "erf": jax.scipy.special.erf,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "leaky_relu_backward": lambda grad, x, slope, is_result: jnp.where(x > 0, grad, slope * grad),
    "mse_loss": _mse_loss,
    "mse_loss_backward": _backward_of(_mse_loss),
    "smooth_l1_loss": _smooth_l1_loss,
    "smooth_l1_loss_backward": _smooth_l1_loss_backward,
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    "relu": lambda x: jnp.maximum(x, 0),
    "sigmoid": jax.nn.sigmoid,
    "sigmoid_backward": lambda grad, y: grad * y * (1 - y),
    "silu": jax.nn.silu,
    "silu_backward": _backward_of(jax.nn.silu),
    "softplus": lambda x, beta=1, threshold=20: jnp.logaddexp(beta * x, 0) / beta,
    "softplus_backward": lambda grad, x, beta, threshold: grad * jax.nn.sigmoid(beta * x),
    "tanh_backward": lambda grad, y: grad * (1 - y * y),
    "threshold_backward": lambda grad, x, threshold: jnp.where(x <= threshold, 0, grad),
    "_log_softmax": lambda x, dim, half_to_float: jax.nn.log_softmax(x, dim),
    "_log_softmax_backward_data": lambda grad, y, dim, dtype: (
        grad - jnp.exp(y) * grad.sum(dim, keepdims=True)
    ),
    "_softmax_backward_data": lambda grad, y, dim, dtype: (
        y * (grad - (grad * y).sum(dim, keepdims=True))
    ),
    "_softmax": lambda x, dim, half_to_float: jax.nn.softmax(x, dim),
    # comparisons
    "eq": jnp.equal,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "lt": jnp.less,
    "ne": jnp.not_equal,
    # reductions
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, _axes(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, _axes(dim), keepdims=keepdim),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "linalg_vector_norm": _norm,
    "logsumexp": lambda x, dim, keepdim=False: jax.scipy.special.logsumexp(
        x, _axes(dim), keepdims=keepdim
    ),
    "mean": lambda x, dim=None, keepdim=False, **_: jnp.mean(x, _axes(dim), keepdims=keepdim),
    "sum": _sum,
    # shapes
    "alias": _same,
    "cat": lambda xs, dim=0: jnp.concatenate(xs, dim),
    "clone": _same,
    "copy": lambda x, source, non_blocking=False: jnp.broadcast_to(source, x.shape),
    "detach": _same,
    "expand": _expand,
    "gather": _gather,
    "index_copy": lambda x, dim, index, source: x.at[_at(x.shape, dim, index)].set(source),
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim, mode="clip"),
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "permute": jnp.transpose,
    "scatter_add": _scatter_add,
    "select": lambda x, dim, index: jax.lax.index_in_dim(x, index, dim, keepdims=False),
    "select_backward": lambda grad, shape, dim, index: (
        jnp.zeros(shape, grad.dtype).at[_at(shape, dim, index)].set(grad)
    ),
    "slice": lambda x, *where: x[_sliced(x.shape, *where)],
    "slice_backward": lambda grad, shape, *where: (
        jnp.zeros(shape, grad.dtype).at[_sliced(shape, *where)].set(grad)
    ),
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "stack": lambda xs, dim=0: jnp.stack(xs, dim),
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "unbind": lambda x, dim=0: [
        jax.lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])
    ],
    "unsqueeze": jnp.expand_dims,
    "view": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    # types and constants
    "fill": jnp.full_like,
    "full": _full,
    "full_like": _full_like,
    "lift_fresh": _same,
    "new_zeros": lambda x, shape, dtype=None, **_: jnp.zeros(
        tuple(shape), x.dtype if dtype is None else jax_dtype(dtype)
    ),
    "ones_like": lambda x, **_: jnp.ones_like(x),
    "scalar_tensor": lambda value, dtype=torch.float32, **_: jnp.asarray(value, jax_dtype(dtype)),
    "zero": jnp.zeros_like,
    "zeros": lambda shape, **options: _full(shape, 0, **options),
    "zeros_like": lambda x, **_: jnp.zeros_like(x),
    "_to_copy": _to,
    # optimizers
    "_fused_adam": _fused_adam,
    "_fused_adamw": partial(_fused_adam, decoupled=True),
}

# operators on each element by itself, which may as well be applied to transposes
ELEMENTWISE = {
    *_SAME, "add", "addcdiv", "addcmul", "clamp", "clamp_max", "clamp_min", "div", "lerp", "mul",
    "neg", "pow", "rsqrt", "rsub", "sgn", "sub", "alias", "clone", "copy", "detach", "fill",
    "full_like", "ones_like", "zero", "zeros_like", "_to_copy", "_fused_adam", "_fused_adamw",
}  # fmt: skip
ELEMENTWISE |= {f"_foreach_{name}" for name in ELEMENTWISE}
