"""Off-policy DDPG: its step against the paper's equations by loops, alone and stacked."""

import copy

import pytest
import torch

from bcq_exp.algorithm.ddpg import DDPG
from bcq_exp.algorithm.networks import Actor, Critic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import DeterministicPolicy
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs


def make_ddpg(seed=0, gamma=0.9, tau=0.1, lr=1e-2):
    torch.manual_seed(seed)
    policy = DeterministicPolicy(actor=Actor(**SIZES, **BOUNDS).double(), action_space=SPACE)
    adam = AdamOptimizerFactory(lr=lr)
    critic = Critic(**SIZES).double()
    return DDPG(
        policy=policy, critic=critic, actor_optim=adam, critic_optim=adam, gamma=gamma, tau=tau
    )


class Reference:
    """Algorithm 1 of arXiv:1509.02971, a row at a time, with torch's own Adam."""

    def __init__(self, ddpg, lr=1e-2):
        self.gamma, self.tau = ddpg.hyperparameters.gamma, ddpg.hyperparameters.tau
        self.actor, self.critic = copy.deepcopy(ddpg.policy.actor), copy.deepcopy(ddpg.critic)
        self.targets = copy.deepcopy((self.actor, self.critic))
        self.adams = [torch.optim.Adam(n.parameters(), lr=lr) for n in (self.actor, self.critic)]

    def step(self, batch):
        actor_target, critic_target = self.targets
        of_actor, of_critic = self.adams
        squares, values = [], []
        for i in range(len(batch.rew)):
            with torch.no_grad():
                y = batch.rew[i]
                if not batch.terminated[i]:
                    after = batch.obs_next[i]
                    y = y + self.gamma * critic_target(after, actor_target(after))[0]
            squares.append((self.critic(batch.obs[i], batch.act[i])[0] - y) ** 2)
        critic_loss = descend(of_critic, sum(squares) / len(squares))
        for obs in batch.obs:
            values.append(self.critic(obs, self.actor(obs))[0])
        actor_loss = descend(of_actor, -sum(values) / len(values))
        follow(self.targets, (self.actor, self.critic), self.tau)
        return actor_loss, critic_loss


def test_steps_are_those_of_the_paper():
    ddpg = make_ddpg()
    reference = Reference(ddpg)
    for step in range(6):
        batch = make_batch(seed=step)
        stats = ddpg.update_with_batch(batch)
        expected = reference.step(batch)
        assert (stats.actor_loss, stats.critic_loss) == pytest.approx(expected, rel=1e-10)
    ours = (ddpg.policy.actor, ddpg.critic, ddpg.actor_target, ddpg.critic_target)
    theirs = (reference.actor, reference.critic, *reference.targets)
    assert_same_parameters(ours, theirs)


def test_a_stack_steps_as_its_runs_do_alone():
    def make(k):
        return make_ddpg(k, gamma=0.9 + 0.03 * k, tau=0.05 * (1 + k), lr=1e-3 * (1 + k))

    assert_a_stack_is_its_runs(make, 3)


@pytest.mark.parametrize(("name", "value"), [("gamma", 1.5), ("tau", 0.0)])
def test_a_number_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*, not {value}"):
        make_ddpg(**{name: value})


def test_a_value_that_diverges_is_watched():
    assert [watch.kind for watch in make_ddpg().watches] == ["diverging Q"]
