"""Behaviour cloning: its step against the equation, alone and stacked."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bc import BC
from bcq_exp.algorithm.networks import Actor
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import DeterministicPolicy
from tests.algorithm.loops import assert_same_parameters, descend
from tests.algorithm.small import BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs


def make_bc(seed=0, lr=1e-2):
    torch.manual_seed(seed)
    policy = DeterministicPolicy(actor=Actor(**SIZES, **BOUNDS).double(), action_space=SPACE)
    return BC(policy=policy, actor_optim=AdamOptimizerFactory(lr=lr))


def reference_step(actor, adam, batch):
    """The mean over every row and dimension of (mu(s) - a)^2, by loops; then Adam by torch."""
    total = 0.0
    for obs, act in zip(batch.obs, batch.act, strict=True):
        for predicted, recorded in zip(actor(obs), act, strict=True):
            total = total + (predicted - recorded) ** 2
    return descend(adam, total / batch.act.numel())


def test_a_step_is_the_equations():
    bc = make_bc()
    actor = copy.deepcopy(bc.policy.actor)
    adam = torch.optim.Adam(actor.parameters(), lr=1e-2)
    for step in range(5):
        batch = make_batch(seed=step)
        stats = bc.update_with_batch(batch)
        assert stats.actor_loss == pytest.approx(reference_step(actor, adam, batch), rel=1e-12)
    assert_same_parameters([bc.policy.actor], [actor])


def test_a_stack_steps_as_its_runs_do_alone():
    assert_a_stack_is_its_runs(lambda k: make_bc(k, lr=1e-2 * (1 + k)), 3)


def test_the_actor_stays_within_the_bounds_and_acts_by_itself():
    policy = make_bc().policy
    with torch.no_grad():
        for param in policy.actor.parameters():
            param.mul_(100)
    obs = np.random.default_rng(0).normal(size=(50, 3))
    act = policy(Batch(obs=obs)).act
    assert (act >= SPACE.low).all() and (act <= SPACE.high).all()
    np.testing.assert_array_equal(act, policy(Batch(obs=obs)).act)  # nothing is drawn


def test_it_learns_a_linear_behaviour():
    bc, weights = make_bc(lr=3e-3), torch.tensor([[0.2, -0.1, 0.3], [0.4, 0.1, -0.2]])
    for step in range(400):
        obs = make_batch(64, seed=step).obs
        loss = bc.update_with_batch(
            Batch(
                obs=obs,
                act=obs @ weights.double().T,
                rew=obs[:, 0],
                terminated=obs[:, 0] * 0,
                obs_next=obs,
            )
        ).actor_loss
    assert loss < 0.01


def test_any_module_can_be_the_actor():
    policy = DeterministicPolicy(actor=nn.Linear(3, 2).double(), action_space=SPACE)
    bc = BC(policy=policy, actor_optim=AdamOptimizerFactory())
    assert not bc.is_pure
    before = policy.actor.weight.clone()
    bc.update_with_batch(make_batch())
    assert not torch.equal(policy.actor.weight, before)
