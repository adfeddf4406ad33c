"""Discrete BCQ: its steps against loops over the paper's equations, and the authors' rule."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.discrete_bcq import DiscreteBCQ, DiscreteBCQPolicy
from bcq_exp.algorithm.networks import StateCritic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs

N, START = 4, 2
NETWORK = {"obs_dim": 3, "act_dim": N, "hidden_sizes": (8, 8)}


def make(seed=0, lr=1e-2, spread=6.0, threshold=0.3, **numbers):
    """``spread`` multiplies the logits, so that the threshold forbids some actions."""
    torch.manual_seed(seed)
    critic, imitator = (StateCritic(**NETWORK).double() for _ in range(2))
    with torch.no_grad():
        imitator.net.layers[-1].weight.mul_(spread)
    policy = DiscreteBCQPolicy(
        critic=critic,
        imitator=imitator,
        threshold=threshold,
        action_space=Discrete(N, start=START),
    )
    adam = AdamOptimizerFactory(lr=lr)
    return DiscreteBCQ(policy=policy, critic_optim=adam, imitator_optim=adam, **numbers)


def batch_of(size=12, seed=1):
    batch = make_batch(size, seed)
    index = torch.randint(N, (size, 1), generator=torch.Generator().manual_seed(seed))
    return Batch(**{**vars(batch), "act": index.double(), "rew": 3 * batch.rew})


def copies(algorithm):
    policy = algorithm.policy
    return (copy.deepcopy(x) for x in (policy.critic, algorithm.critic_target, policy.imitator))


def assert_same_networks(algorithm, *theirs):
    policy = algorithm.policy
    ours = (policy.critic, algorithm.critic_target, policy.imitator)
    assert_same_parameters(ours, theirs, rtol=1e-8, atol=1e-11)


def probabilities(logits):
    weights = [math.exp(x) for x in logits.tolist()]
    return [w / sum(weights) for w in weights]


def allowed(logits, threshold):
    g = probabilities(logits)
    return [j for j in range(N) if g[j] / max(g) > threshold or g[j] == max(g)]


def huber(x):
    return x**2 / 2 if abs(x.item()) < 1 else abs(x) - 0.5


@pytest.mark.parametrize(
    ("threshold", "tau", "freq"), [(0.0, 0.1, 1), (0.3, 1.0, 2), (1.0, 0.1, 1)]
)
def test_steps_are_the_papers_equations_by_loops(threshold, tau, freq):
    numbers = {"gamma": 0.9, "tau": tau, "target_update_freq": freq, "logits_penalty": 0.05}
    bcq = make(threshold=threshold, **numbers)
    critic, target, imitator = copies(bcq)
    optims = [torch.optim.Adam(x.parameters(), lr=1e-2) for x in (critic, imitator)]
    forbidden = 0
    for step in range(5):
        batch = batch_of(seed=step)
        size = len(batch.rew)
        errors, surprises, squares = [], [], []
        for i in range(size):
            j = int(batch.act[i, 0])
            y = batch.rew[i].item()
            if not batch.terminated[i]:
                chosen = allowed(imitator(batch.obs_next[i]), threshold)
                forbidden += N - len(chosen)
                q = critic(batch.obs_next[i])
                best = max(chosen, key=lambda a: q[a].item())
                y += 0.9 * target(batch.obs_next[i])[best].item()
            errors.append(huber(critic(batch.obs[i])[j] - y))
            logits = imitator(batch.obs[i])
            surprises.append(sum(x.exp() for x in logits).log() - logits[j])
            squares += [x**2 for x in logits]
        stats = bcq.update_with_batch(batch)
        losses = (
            sum(errors) / size,
            sum(surprises) / size + 0.05 * sum(squares) / (size * N),
        )
        for optim, loss in zip(optims, losses, strict=True):
            descend(optim, loss)
        if (step + 1) % freq == 0:
            follow([target], [critic], tau)
        assert stats.critic_loss == pytest.approx(losses[0].item(), rel=1e-10)
        assert stats.imitator_loss == pytest.approx(losses[1].item(), rel=1e-10)
    assert_same_networks(bcq, critic, target, imitator)
    assert forbidden > 0 or threshold == 0


class Authors(nn.Module):
    """Their update of github.com/sfujim/BCQ in plain torch: one module, one optimizer, one loss."""

    def __init__(self, critic, imitator):
        super().__init__()
        self.q, self.i = (self.plain(x) for x in (critic, imitator))
        self.behind = copy.deepcopy(self.q)
        parameters = [*self.q.parameters(), *self.i.parameters()]
        self.adam = torch.optim.Adam(parameters, lr=3e-4)

    @staticmethod
    def plain(network):
        layers = [
            part for layer in network.net.layers for part in (copy.deepcopy(layer), nn.ReLU())
        ]
        return nn.Sequential(*layers[:-1])

    def masked(self, obs):
        g = self.i(obs).softmax(1)
        mask = (g / g.max(1, keepdim=True).values > 0.3).double()
        return mask * self.q(obs) + (1 - mask) * -1e8

    def step(self, batch):
        with torch.no_grad():
            best = self.masked(batch.obs_next).argmax(1, keepdim=True)
            after = self.behind(batch.obs_next).gather(1, best)
            y = batch.rew[:, None] + (1 - batch.terminated[:, None]) * 0.99 * after
        index, logits = batch.act.long(), self.i(batch.obs)
        loss = nn.functional.smooth_l1_loss(self.q(batch.obs).gather(1, index), y)
        loss = loss + nn.functional.nll_loss(logits.log_softmax(1), index[:, 0])
        loss = loss + 0.01 * (logits**2).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        with torch.no_grad():
            for new, old in zip(self.q.parameters(), self.behind.parameters(), strict=True):
                old.copy_(0.005 * new + 0.995 * old)


def test_the_defaults_follow_the_authors_update():
    bcq = make(lr=3e-4)
    authors = Authors(bcq.policy.critic, bcq.policy.imitator)
    for step in range(30):
        batch = batch_of(64, seed=step)
        bcq.update_with_batch(batch)
        authors.step(batch)
    assert_same_networks(bcq, authors.q, authors.behind, authors.i)
    obs = batch_of(200, seed=99).obs
    chosen = authors.masked(obs).argmax(1)
    assert (chosen != authors.q(obs).argmax(1)).any()  # the constraint is felt
    assert bcq.policy(Batch(obs=obs)).act.tolist() == (chosen + START).tolist()


@pytest.mark.parametrize("freq", [1, 3])
def test_a_stack_steps_as_its_runs_do_alone(freq, monkeypatch):
    monkeypatch.setattr("tests.algorithm.stacking.make_batch", lambda seed: batch_of(6, seed))

    def run(k):
        numbers = {"gamma": 0.9 + 0.03 * k, "tau": 0.05 * (1 + k), "logits_penalty": 0.01 * k}
        lr, threshold = 1e-3 * (1 + k), 0.2 * (1 + k)
        return make(k, lr=lr, threshold=threshold, target_update_freq=freq, **numbers)

    assert_a_stack_is_its_runs(run, 3)


def test_a_threshold_of_0_is_greedy_in_q_and_one_of_1_imitates():
    obs = batch_of(100).obs
    greedy, imitating = make(threshold=0.0).policy, make(threshold=1.0).policy
    act = greedy(Batch(obs=obs)).act
    assert act.dtype.kind == "i" and act.shape == (100,)
    assert act.tolist() == (greedy.critic(obs).argmax(1) + START).tolist()
    act = imitating(Batch(obs=obs)).act
    assert act.tolist() == (imitating.imitator(obs).argmax(1) + START).tolist()
    assert len(set(act.tolist())) > 1


def test_the_policys_probabilities_are_one_at_its_action():
    policy, obs = make().policy, batch_of(50).obs.numpy()
    found = policy.action_probabilities(obs)
    assert found.shape == (50, N)
    assert found.sum(1).tolist() == [1.0] * 50
    assert (found.argmax(1) + START).tolist() == policy.predict(obs)[0].tolist()
    assert policy.predict(obs[0])[0] == policy.predict(obs)[0][0]
    inverse = policy.map_action_inverse(policy.predict(obs)[0])
    assert inverse.shape == (50, 1) and inverse[:, 0].tolist() == found.argmax(1).tolist()


def test_the_value_is_q_of_the_index():
    bcq, batch = make(), batch_of()
    q = bcq.policy.critic(batch.obs)
    expected = [q[i, int(a)].item() for i, a in enumerate(batch.act[:, 0])]
    assert bcq.value(batch.obs, batch.act).tolist() == pytest.approx(expected)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"threshold is in \[0, 1\], not 1.5"):
        make(threshold=1.5)
    with pytest.raises(ValueError, match="logits_penalty is at least 0, not -1"):
        make(logits_penalty=-1)
    network = StateCritic(**NETWORK)
    with pytest.raises(TypeError, match="needs a Discrete action space"):
        DiscreteBCQPolicy(critic=network, imitator=network, action_space=Box(-1, 1, (2,)))


def test_it_finds_the_best_policy_that_the_data_support():
    """Two states in a row, three actions: the data never take the third, whose value is a guess.

    Of the two that they take, the worse one is taken more often; of each state only the better
    leads on. The values are 1 + 0.9 and 1.
    """
    torch.manual_seed(0)
    sizes = {"obs_dim": 2, "act_dim": 3, "hidden_sizes": (16,)}
    policy = DiscreteBCQPolicy(
        critic=StateCritic(**sizes),
        imitator=StateCritic(**sizes),
        action_space=Discrete(3),
    )
    with torch.no_grad():
        policy.critic.net.layers[-1].bias[2] = 100.0
    adam = AdamOptimizerFactory(lr=1e-2)
    bcq = DiscreteBCQ(policy=policy, critic_optim=adam, imitator_optim=adam, gamma=0.9, tau=0.05)
    rng = np.random.default_rng(0)
    states = np.eye(2)
    for _ in range(300):
        state, good = rng.integers(2, size=64), rng.random(64) < 0.4
        bcq.update_with_batch(
            Batch(
                obs=states[state],
                act=np.where(good, 1.0, 0.0)[:, None],
                rew=good.astype(float),
                terminated=(state == 1) | ~good,
                obs_next=states[[1] * 64],
            )
        )
    assert policy.predict(states)[0].tolist() == [1, 1]
    with torch.no_grad():
        q = policy.critic(torch.eye(2))
    assert q[:, :2].tolist() == [
        [pytest.approx(0, abs=0.1), pytest.approx(1.9, abs=0.1)],
        [pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1)],
    ]
    assert (q[:, 2] > 10).all()  # what it never does, it believes to be splendid
