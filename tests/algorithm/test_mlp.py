"""The MLP's own forward and backward against torch's, and its bfloat16 products."""

import pytest
import torch
from torch import nn

from bcq_exp.algorithm.mlp import FEW_ROWS, MLP, frozen
from bcq_exp.algorithm.networks import choose_compute_dtype


def twins(dtype=torch.float64):
    torch.manual_seed(0)
    ours = MLP(5, (16, 12), 3).to(dtype)
    linears = [nn.Linear(5, 16), nn.Linear(16, 12), nn.Linear(12, 3)]
    torchs = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2]).to(dtype)
    for layer, linear in zip(ours.layers, linears, strict=True):
        linear.load_state_dict(layer.state_dict())
    return ours, torchs


@pytest.mark.parametrize("lead", [(), (7,), (4, 3)])
def test_values_and_every_gradient_are_torchs(lead):
    ours, torchs = twins()
    x = torch.randn(*lead, 5, dtype=torch.float64, requires_grad=True)
    weigh = torch.randn(*lead, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad((ours(x) * weigh).sum(), [x, *ours.parameters()])
    theirs = torch.autograd.grad((torchs(x) * weigh).sum(), [x, *torchs.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_input_is_left_as_it_is():
    ours, _ = twins()
    x = torch.randn(7, 5, dtype=torch.float64)
    before = x.clone()
    ours(x)
    assert torch.equal(x, before)


def test_whole_numbers_are_refused():
    ours, _ = twins()
    with pytest.raises(TypeError, match="must be floats, not torch.int64"):
        ours(torch.ones(7, 5, dtype=torch.int64))


def test_a_frozen_network_passes_gradients_on_and_has_none():
    ours, _ = twins()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    with frozen(ours):
        loss = ours(x).sum()
    assert all(p.requires_grad for p in ours.parameters())
    (through, *own) = torch.autograd.grad(loss, [x, *ours.parameters()], allow_unused=True)
    assert through.abs().sum() > 0
    assert own == [None] * 6


def test_bfloat16_products_keep_float32_parameters_gradients_and_results():
    ours, torchs = twins(torch.float32)
    choose_compute_dtype(ours, torch.bfloat16)
    x = torch.randn(64, 5)
    y = ours(x)
    grads = torch.autograd.grad(y.square().mean(), list(ours.parameters()))
    exact = torch.autograd.grad(torchs(x).square().mean(), list(torchs.parameters()))
    assert {t.dtype for t in (y, *grads, *ours.parameters())} == {torch.float32}
    assert not torch.equal(y, torchs(x))
    torch.testing.assert_close(y, torchs(x), rtol=0.05, atol=0.02)
    for mine, theirs in zip(grads, exact, strict=True):
        assert (mine - theirs).norm() < 0.05 * theirs.norm()


def test_few_rows_are_computed_in_the_parameters_type():
    ours, _ = twins(torch.float32)
    exact, _ = twins(torch.float32)
    choose_compute_dtype(ours, torch.bfloat16)
    few, many = torch.randn(FEW_ROWS - 1, 5), torch.randn(FEW_ROWS, 5)
    assert torch.equal(ours(few), exact(few))
    assert not torch.equal(ours(many), exact(many))
