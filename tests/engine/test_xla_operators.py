"""Torch's operators give the same numbers and gradients in an XLA program."""

from copy import deepcopy

import jax
import pytest
import torch
from torch.nn import functional as F

from bcq_exp.algorithm.optim import (
    AdamOptimizerFactory,
    AdamWOptimizerFactory,
    RMSpropOptimizerFactory,
    SGDOptimizerFactory,
)
from bcq_exp.engine.xla import UntraceableError
from bcq_exp.engine.xla.executor import _agree
from bcq_exp.engine.xla.trace import Trace, to_jax, to_torch
from tests.algorithm.minimizing import minimize

FUNCTIONS = {
    "arithmetic": lambda x, y: (x.abs() + 1).log() - y.exp() / (2 + y.square()) + (3 - x) * -y,
    "roots": lambda x, y: (x.square() + 1).sqrt() + (y.square() + 1).rsqrt() + (x * x + 1) ** -1.5,
    "bounds": lambda x, y: x.clamp(-0.5, 0.5) + y.clamp(min=0.1) + y.clamp(max=x) + x.maximum(y),
    "rounded": lambda x, y: (3 * x).round() + y,
    "lerp": lambda x, y: x.lerp(y, 0.3) + torch.addcmul(x, x, y, value=0.5),
    "activations": lambda x, y: torch.stack(
        [f(x) for f in (F.relu, F.tanh, F.sigmoid, F.silu, F.gelu, F.leaky_relu, F.softplus)]
    ),
    "softmax": lambda x, y: x.softmax(-1) * y.log_softmax(0),
    "losses": lambda x, y: torch.stack(
        [
            loss(x, y, reduction=r)
            for loss in (F.mse_loss, F.smooth_l1_loss)
            for r in ("mean", "sum")
        ]
    ),
    "products": lambda x, y: (
        torch.addmm(y[:, :1], x, y.T) + torch.stack([x @ y.T] * 2).bmm(torch.stack([x @ x.T] * 2))
    ),
    "comparisons": lambda x, y: torch.where((x > y) & (x <= 1) | (y < -1), x, y),
    "reductions": lambda x, y: x.amax(-1, keepdim=True) + y.mean((0, 1)) + x.sum(0)[:1] - y.amin(),
    "log-sum-exp": lambda x, y: x.logsumexp(1, keepdim=True) * y + x.logsumexp((0, 1)),
    "large numbers": lambda x, y: F.softplus(100 * x) + (100 * y).logsumexp(0),
    "error function": lambda x, y: x.detach().erf() * y,
    "norms": lambda x, y: torch.linalg.vector_norm(x, dim=(0, 1), keepdim=True) * y,
    "shapes": lambda x, y: torch.cat(
        [
            x.T.reshape(-1),
            y.unsqueeze(1).expand(3, 2, 4).transpose(0, 2).flatten(),
            x[1:, ::2].ravel(),
        ]
    ),
    "parts": lambda x, y: torch.stack([*x.split([1, 3], 1)[1].unbind(1), y.chunk(2, 1)[0].mean(1)]),
    "chosen": lambda x, y: (
        y * x.detach().take_along_dim(y.argmax(1, keepdim=True), 1)
        + x.detach().index_select(0, torch.tensor([2, 0, 1]))
    ),
    "gathered": lambda x, y: torch.cat(
        [
            x.gather(1, torch.tensor([[3, 0], [1, 1], [2, 0]])),
            y.gather(0, torch.tensor([[0, 0, 1, 2], [1, 2, 0, 0], [0, 1, 2, 2]])),
        ],
        1,
    ),
    "gathered from the first row": lambda x, y: x.gather(-1, torch.tensor([[1, 0, 3, 3]])) * y,
    "copied to columns": lambda x, y: x * y.detach().index_copy(-1, torch.tensor([2, 0]), y[:, :2]),
    "a column": lambda x, y: x.select(-1, 1)[:, None] * y,
    "layer norm": lambda x, y: F.layer_norm(x, (4,), y[0], y[1]) + F.layer_norm(y, (3, 4)),
    "layer norm without a gradient of its weight": lambda x, y: F.layer_norm(
        x, (4,), y[0].detach(), y[1]
    ),
    "numbers": lambda x, y: x * torch.full_like(x, 2) + torch.zeros_like(y).fill_(3),
    "not a number": lambda x, y: (x / torch.zeros_like(x)).nan_to_num(1.0, 2.0, -3.0) * y,
}


def compiled(function, *tensors):
    """What a function of tensors makes of them in an XLA program."""
    results = []

    def program(*values):
        with Trace(tensors, values) as trace:
            results[:] = function(*tensors)
            return [trace.value(result) for result in results]

    with jax.enable_x64(True):
        return [to_torch(x) for x in jax.jit(program)(*map(to_jax, tensors))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_and_its_gradient(name, dtype):
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 4, generator=rng, dtype=dtype).requires_grad_() for _ in range(2))

    def both(x, y):
        result = FUNCTIONS[name](x, y)
        scalar = (result.square() + result).sum()
        of_x, of_y = torch.autograd.grad(scalar, [x, y], materialize_grads=True)
        return [result, of_x, of_y]

    for found, expected in zip(compiled(both, x, y), both(x, y), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "factory",
    [
        AdamOptimizerFactory(lr=0.01, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
        AdamWOptimizerFactory(lr=0.01, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
        AdamOptimizerFactory(lr=0.01, max_grad_norm=0.1),
        RMSpropOptimizerFactory(lr=0.01, alpha=0.8, momentum=0.4, weight_decay=0.1),
        SGDOptimizerFactory(lr=0.01, momentum=0.3, nesterov=True, weight_decay=0.1),
    ],
    ids=lambda factory: type(factory).__name__.removesuffix("OptimizerFactory"),
)
def test_an_optimizer_steps_the_same(factory):
    rng = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(n, generator=rng, dtype=torch.float64)) for n in (3, 5)
    ]
    optimizer = factory.create(params)
    minimize(optimizer, sum(param.square().sum() for param in params))  # makes its moments
    state = [*params, *optimizer.state_tensors()]
    before = deepcopy([x.detach() for x in state])

    def step(*_):
        optimizer.apply(sum((param**3).sum() for param in params))
        return state

    found = compiled(step, *state)
    with torch.no_grad():
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
    step()
    for one, other in zip(found, state, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-14)


def test_a_view_of_what_was_written_to_is_refused():
    x = torch.arange(4.0)

    def function(x):
        view = x.view(2, 2)
        x.add_(1)
        return [view * 2]

    with pytest.raises(UntraceableError, match="written to through one view"):
        compiled(function, x)


def test_a_write_to_one_part_leaves_the_others():
    x = torch.arange(6.0)

    def function(x):
        first, second = x[:3], x[3:]
        first.mul_(2)
        return [first + second]

    (found,) = compiled(function, x.clone())
    assert found.tolist() == [3, 6, 9]


def test_what_is_not_given_is_a_constant_that_is_counted():
    x, constant = torch.ones(2), torch.tensor([2.0, 3.0])
    with jax.enable_x64(True), Trace([x], [to_jax(x)]) as trace:
        found = x * constant
        assert trace.num_constants == 1
        assert trace.value(found).tolist() == [2, 3]


@pytest.mark.parametrize("is_bf16", [False, True])
def test_one_element_of_a_tensor_may_step_the_other_way(is_bf16):
    before, step = torch.zeros(64), torch.full((64,), 1e-3)
    one, half, every = step.clone(), step.clone(), -step
    one[0] *= -1
    half[::2] *= -1
    for compiled, agrees in ((one, True), (half, False), (every, False)):
        assert _agree(compiled, step, before, is_bf16=is_bf16) is agrees
    assert not _agree(-step[:1], step[:1], before[:1], is_bf16=False)  # nor may a scalar
    assert not _agree(1.03 * step, step, before, is_bf16=False)


@pytest.mark.parametrize(("rows", "width"), [(8, 24), (100, 24), (8, 160), (100, 160)])
def test_bfloat16_products_of_every_layout(rows, width):
    """A layer's: forward, and the gradients of its input and weights."""
    x, weight, bias, grad = (
        torch.randn(shape).bfloat16()
        for shape in ((rows, width), (128, width), (128,), (rows, 128))
    )

    def products(x, weight, bias, grad):
        return [torch.addmm(bias, x, weight.T), x @ weight.T, grad @ weight, grad.T @ x]

    for found, expected in zip(
        compiled(products, x, weight, bias, grad), products(x, weight, bias, grad), strict=True
    ):
        scale = expected.float().std().item()
        torch.testing.assert_close(found.float(), expected.float(), rtol=0.01, atol=0.01 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "width"), [(3, 4), (8, 130)])
def test_a_matrix_may_be_given_as_its_transpose(rows, width, dtype):
    torch.manual_seed(0)
    x, grad, moment = torch.randn(rows, width), torch.randn(rows, 140), torch.randn(140, width)
    weight, bias = torch.randn(140, width), torch.randn(140)

    def layer(x, grad, weight, moment, bias):
        of_weight = (grad.T @ x).add_(weight, alpha=0.5)
        outputs = [torch.addmm(bias, x, weight.T), grad @ weight, of_weight, of_weight.T @ grad.T]
        before = weight.clone()
        moment.lerp_(of_weight, 0.1)  # each is written to and read through both views
        torch._foreach_mul_([weight, bias], [moment, 2 * bias])
        return [
            *outputs,
            before - weight,
            weight.T @ weight,
            weight[1:].sum(0),
            weight.norm(),
            bias,
        ]

    tensors = [each.to(dtype) for each in (x, grad, weight, moment, bias)]
    expected = layer(*(tensor.clone() for tensor in tensors))
    stored = [x if x.ndim == 1 else x.t() for x in tensors]
    with jax.enable_x64(True):

        def program(*values):
            with Trace(stored, values) as trace:
                return [trace.value(result) for result in layer(*tensors)]

        found = [to_torch(x) for x in jax.jit(program)(*map(to_jax, stored))]
    for one, other in zip(found, expected, strict=True):
        scale = other.float().abs().max().item()
        error = (one.float() - other.float()).abs().max().item()
        assert error < (2e-6 if dtype == torch.float32 else 0.02) * scale
