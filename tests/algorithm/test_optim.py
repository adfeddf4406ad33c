"""Optimizers: real steps, schedules, clipping, and going on where they were."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bcq_exp.algorithm.optim import (
    AdamOptimizerFactory,
    AdamWOptimizerFactory,
    CosineSchedule,
    LinearSchedule,
    RMSpropOptimizerFactory,
    SGDOptimizerFactory,
)
from bcq_exp.errors import UserError
from tests.algorithm.minimizing import minimize

FACTORIES = {
    "adam": (
        AdamOptimizerFactory(lr=0.1, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
    ),
    "adamw": (
        AdamWOptimizerFactory(lr=0.1, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.2),
    ),
    "rmsprop": (
        RMSpropOptimizerFactory(lr=0.1, alpha=0.8, eps=1e-3, momentum=0.5, weight_decay=0.2),
        lambda p: torch.optim.RMSprop(
            p, lr=0.1, alpha=0.8, eps=1e-3, momentum=0.5, weight_decay=0.2
        ),
    ),
    "sgd": (
        SGDOptimizerFactory(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.2),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.2),
    ),
}


def params():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2).double()), nn.Parameter(torch.randn(2).double())]


def loss(params, step=0):
    weight, bias = params
    x = torch.linspace(-1, 1 + step, 12, dtype=torch.float64).reshape(4, 3)
    return (x @ weight + bias).square().mean()


@pytest.mark.parametrize("name", FACTORIES)
def test_steps_are_torchs_own_with_every_option(name):
    factory, plain = FACTORIES[name]
    ours, theirs = params(), params()
    optimizer, reference = factory.create(ours), plain(theirs)
    for step in range(5):
        minimize(optimizer, loss(ours, step))
        reference.zero_grad()
        loss(theirs, step).backward()
        reference.step()
    for one, other, start in zip(ours, theirs, params(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert not torch.equal(one, start)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_state_dict_continues_bit_for_bit(name):
    factory = FACTORIES[name][0]
    straight, first, second = params(), params(), params()
    schedule = CosineSchedule(10, 0.1)
    factory = type(factory)(**{**vars(factory), "schedule": schedule})
    optimizer = factory.create(straight)
    for step in range(8):
        minimize(optimizer, loss(straight, step))
    before = factory.create(first)
    for step in range(4):
        minimize(before, loss(first, step))
    after = factory.create(second)
    with torch.no_grad():
        for new, old in zip(second, first, strict=True):
            new.copy_(old)
    after.load_state_dict(before.state_dict())
    assert after.lr == pytest.approx(0.1 * schedule(4))
    for step in range(4, 8):
        minimize(after, loss(second, step))
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LinearSchedule(10), {0: 1, 3: 0.7, 5: 0.5, 10: 0, 25: 0}),
        (LinearSchedule(4, 0.2), {0: 1, 1: 0.8, 2: 0.6, 4: 0.2, 5: 0.2}),
        (CosineSchedule(10), {0: 1, 5: 0.5, 10: 0, 25: 0}),
        (CosineSchedule(6, 0.2), {0: 1, 2: 0.2 + 0.8 * 0.75, 3: 0.6, 4: 0.4, 6: 0.2}),
    ],
)
def test_schedule_values(schedule, expected):
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, abs=1e-15)


def test_the_schedule_scales_each_step():
    ours = params()
    start = [p.detach().clone() for p in ours]
    optimizer = SGDOptimizerFactory(lr=0.5, schedule=LinearSchedule(4)).create(ours)
    rates = []
    for _ in range(6):
        rates.append(optimizer.lr)
        before = [p.detach().clone() for p in ours]
        gradient = torch.autograd.grad(loss(ours), ours)
        minimize(optimizer, loss(ours))
        for old, new, grad in zip(before, ours, gradient, strict=True):
            torch.testing.assert_close(new, old - rates[-1] * grad)
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])
    assert not torch.equal(start[0], ours[0])


@pytest.mark.parametrize("limit", [0.01, 1e6, None])
def test_gradients_are_scaled_down_to_the_limit(limit):
    ours = params()
    gradient = torch.autograd.grad(loss(ours), ours)
    norm = math.sqrt(sum(g.square().sum().item() for g in gradient))
    before = [p.detach().clone() for p in ours]
    minimize(SGDOptimizerFactory(lr=1.0, max_grad_norm=limit).create(ours), loss(ours))
    steps = [old - new for old, new in zip(before, ours, strict=True)]
    length = math.sqrt(sum(s.square().sum().item() for s in steps))
    assert length == pytest.approx(min(norm, limit or np.inf), rel=1e-4)
    for step, grad in zip(steps, gradient, strict=True):  # the direction stays
        torch.testing.assert_close(step * (norm / length), grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match=f"^max_grad_norm is above 0, not {limit}"):
        AdamOptimizerFactory(max_grad_norm=limit)


def test_other_parameters_of_the_loss_get_no_gradient():
    ours, others = params(), params()
    minimize(SGDOptimizerFactory(lr=0.1).create(ours), loss(ours) + loss(others) * loss(ours))
    assert all(p.grad is None for p in others)
    assert all(torch.equal(a, b) for a, b in zip(others, params(), strict=True))


def test_a_loss_without_effect_on_the_parameters_is_refused():
    optimizer = SGDOptimizerFactory(lr=0.1).create(params())
    with pytest.raises(UserError, match="does not depend on the network"):
        optimizer.apply(loss(params()))


def test_a_rate_out_of_the_present_schedule_follows_the_present_one():
    first, second = params(), params()
    short = SGDOptimizerFactory(lr=1.0, schedule=LinearSchedule(4)).create(first)
    minimize(short, loss(first))
    longer = SGDOptimizerFactory(lr=1.0, schedule=LinearSchedule(8)).create(second)
    longer.load_state_dict(short.state_dict())
    assert longer.lr == pytest.approx(1 - 1 / 8)


@pytest.mark.parametrize(
    ("factory", "reference"),
    [(AdamOptimizerFactory, torch.optim.Adam), (AdamWOptimizerFactory, torch.optim.AdamW)],
)
def test_adam_is_bitwise_torchs(factory, reference):
    torch.manual_seed(0)
    ours, theirs = (
        [nn.Parameter(torch.full(size, 0.5).double()) for size in ((3, 3), (3,))] for _ in range(2)
    )
    mine = factory(lr=1e-2, weight_decay=0.1).create(ours)
    other = reference(theirs, lr=1e-2, weight_decay=0.1, fused=True)
    for _ in range(20):
        x = torch.randn(3).double()
        minimize(mine, (ours[0] @ x + ours[1]).square().sum())
        other.zero_grad()
        (theirs[0] @ x + theirs[1]).square().sum().backward()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_steps_that_were_taken_elsewhere_count_each():
    optimizer = SGDOptimizerFactory(lr=0.5, schedule=LinearSchedule(4)).create(params())
    optimizer.after_steps(3)
    assert (optimizer.num_steps, optimizer.lr) == (3, pytest.approx(0.125))
