"""DQN of discretized actions: its step by loops, alone and stacked; its bins; its policy."""

import copy

import numpy as np
import pytest
import torch

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.dqn import DQN, Bins, GreedyPolicy
from bcq_exp.algorithm.networks import StateCritic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import ACT_DIM, BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs

NUM_BINS = 4


def make_dqn(seed=0, lr=1e-2, gamma=0.9, tau=0.1):
    torch.manual_seed(seed)
    critic = StateCritic(**{**SIZES, "act_dim": ACT_DIM * NUM_BINS}).double()
    bins = Bins(**BOUNDS, num_bins=NUM_BINS).double()
    policy = GreedyPolicy(critic=critic, bins=bins, action_space=SPACE)
    return DQN(policy=policy, critic_optim=AdamOptimizerFactory(lr=lr), gamma=gamma, tau=tau)


def nearest(act):
    """The bin of each dimension by looking at all of them."""
    found = []
    for x, low, high in zip(act.tolist(), SPACE.low, SPACE.high, strict=True):
        centres = np.linspace(low, high, NUM_BINS)
        found.append(int(np.abs(centres - x).argmin()))
    return found


def test_steps_are_those_of_the_equation_by_loops():
    dqn = make_dqn()
    critic, target = copy.deepcopy(dqn.policy.critic), copy.deepcopy(dqn.critic_target)
    adam = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(6):
        batch = make_batch(seed=step)
        stats = dqn.update_with_batch(batch)
        squares = []
        for i in range(len(batch.rew)):
            q = critic(batch.obs[i]).reshape(ACT_DIM, NUM_BINS)
            after = target(batch.obs_next[i]).reshape(ACT_DIM, NUM_BINS).detach()
            for d, j in enumerate(nearest(batch.act[i])):
                y = batch.rew[i]
                if not batch.terminated[i]:
                    y = y + 0.9 * max(after[d].tolist())
                squares.append((q[d, j] - y) ** 2)
        loss = descend(adam, sum(squares) / len(squares))
        follow([target], [critic], 0.1)
        assert stats.critic_loss == pytest.approx(loss, rel=1e-10)
    assert_same_parameters((dqn.policy.critic, dqn.critic_target), (critic, target))


def test_a_stack_steps_as_its_runs_do_alone():
    def make(k):
        return make_dqn(k, lr=1e-3 * (1 + k), gamma=0.9 + 0.03 * k, tau=0.05 * (1 + k))

    assert_a_stack_is_its_runs(make, 3)


def test_a_bin_is_the_nearest_and_stands_for_its_centre():
    bins = Bins(**BOUNDS, num_bins=NUM_BINS).double()
    act = torch.as_tensor(np.random.default_rng(0).uniform(SPACE.low, SPACE.high, (50, ACT_DIM)))
    index = bins(act)
    assert index.tolist() == [nearest(a) for a in act]
    assert torch.equal(bins(bins.decode(index)), index)
    half = (bins.high - bins.low) / (NUM_BINS - 1) / 2
    assert ((bins.decode(index) - act).abs() <= half + 1e-12).all()
    outside = torch.tensor([[-9.0, 9.0]]).double()
    assert bins.decode(bins(outside)).tolist() == [[SPACE.low[0], SPACE.high[1]]]


def test_the_policy_takes_the_best_bin_of_each_dimension():
    policy = make_dqn().policy
    obs = np.random.default_rng(0).normal(size=(20, 3))
    act = policy(Batch(obs=obs)).act
    q = policy.critic(torch.as_tensor(obs)).detach().numpy().reshape(20, ACT_DIM, NUM_BINS)
    for row, values in zip(act, q, strict=True):
        for d in range(ACT_DIM):
            centres = np.linspace(SPACE.low[d], SPACE.high[d], NUM_BINS)
            assert row[d] == pytest.approx(centres[values[d].argmax()])


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="num_bins is at least 2, not 1"):
        Bins(**BOUNDS, num_bins=1)
