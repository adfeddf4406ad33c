"""IQL: its step against the paper's equations, alone and stacked."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.iql import IQL, value_loss
from bcq_exp.algorithm.networks import (
    Critic,
    GaussianActor,
    SquashedMean,
    StateCritic,
    UnitActions,
)
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import GaussianPolicy
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import ACT_DIM, BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs
from tests.commands import algorithm_of, compose

NUMBERS = {
    "expectile": 0.8, "temperature": 2.0, "advantage_clip": 1.5, "tau": 0.03, "gamma": 0.9,
}  # fmt: skip


def make_iql(seed=0, lr=1e-2, **numbers):
    torch.manual_seed(seed)
    actor = GaussianActor(**SIZES, state_dependent_std=False).double()
    mean = SquashedMean(actor, UnitActions(**BOUNDS).double())
    adam = AdamOptimizerFactory(lr=lr)
    return IQL(
        policy=GaussianPolicy(actor=mean, action_space=SPACE),
        critic=Critic(**SIZES).double(),
        value=StateCritic(**{**SIZES, "act_dim": 1}).double(),
        actor_optim=adam,
        critic_optim=adam,
        value_optim=adam,
        **{**NUMBERS, **numbers},
    )


def unit_of(act):
    """An action in units of half its range, number by number."""
    halves = [
        (a - (low + high) / 2) / ((high - low) / 2)
        for a, low, high in zip(act.tolist(), SPACE.low, SPACE.high, strict=True)
    ]
    return torch.tensor(halves, dtype=torch.float64)


class Reference:
    """Equations 5 to 7, transition by transition; Adam and densities are torch's."""

    def __init__(self, algorithm, lr=1e-2):
        self.actor = copy.deepcopy(algorithm.policy.actor.gaussian)
        self.value = copy.deepcopy(algorithm.state_value)
        self.critics = [copy.deepcopy(algorithm.critic), copy.deepcopy(algorithm.critic2)]
        self.targets = copy.deepcopy(self.critics)
        self.networks = [self.actor, self.value, *self.critics]
        self.adams = {net: torch.optim.Adam(net.parameters(), lr=lr) for net in self.networks}

    def step(self, network, loss):
        return descend(self.adams[network], loss)

    def train(self, batch):
        size, n = len(batch.rew), NUMBERS
        qs = [
            min(target(obs, act).item() for target in self.targets)
            for obs, act in zip(batch.obs, batch.act, strict=True)
        ]
        loss = 0.0
        for obs, q in zip(batch.obs, qs, strict=True):
            u = q - self.value(obs)[0]
            loss = loss + (n["expectile"] if u > 0 else 1 - n["expectile"]) * u**2 / size
        metrics = {"value_loss": self.step(self.value, loss)}

        loss, weights, advantages = 0.0, [], []
        for obs, act, q in zip(batch.obs, batch.act, qs, strict=True):
            advantages.append(q - self.value(obs).item())
            weights.append(min(math.exp(n["temperature"] * advantages[-1]), n["advantage_clip"]))
            mean, log_std = self.actor(obs)[:ACT_DIM], self.actor(obs)[ACT_DIM:]
            density = Normal(torch.tanh(mean), torch.exp(log_std.clamp(-5, 2)))
            loss = loss - weights[-1] * density.log_prob(unit_of(act)).sum() / size
        metrics["actor_loss"] = self.step(self.actor, loss)
        metrics["weight_mean"] = sum(weights) / size
        metrics["advantage_mean"] = sum(advantages) / size
        metrics["clip_fraction"] = sum(w == n["advantage_clip"] for w in weights) / size

        targets = []
        for obs_next, rew, ended in zip(
            batch.obs_next, batch.rew.tolist(), batch.terminated, strict=True
        ):
            targets.append(rew if ended else rew + n["gamma"] * self.value(obs_next).item())
        metrics["target_q_mean"] = sum(targets) / size
        for k, critic in enumerate(self.critics):
            loss = 0.0
            for obs, act, y in zip(batch.obs, batch.act, targets, strict=True):
                loss = loss + (critic(obs, act)[0] - y) ** 2 / size
            metrics[f"critic{k + 1}_loss"] = self.step(critic, loss)
        follow(self.targets, self.critics, n["tau"])
        return metrics


def test_steps_are_the_papers():
    algorithm = make_iql()
    reference = Reference(algorithm)
    clipped = set()
    for step in range(6):
        batch = make_batch(seed=step)
        metrics = algorithm.gradient_step(batch, algorithm.draw_noise(6))
        for name, expected in reference.train(batch).items():
            assert metrics[name].item() == pytest.approx(expected, rel=1e-10), (step, name)
        clipped.add(metrics["clip_fraction"].item())
        *ours, _ = algorithm.networks
        assert_same_parameters(ours, (*reference.networks, *reference.targets))
    assert len(clipped) > 1 and max(clipped) > 0  # the clip was in force, and not for all


@pytest.mark.parametrize("same", [True, False], ids=["same numbers", "other numbers"])
def test_a_stack_steps_as_its_runs_do_alone(same):
    def numbers(k):
        if same:
            return {}
        return {
            "expectile": 0.5 + 0.1 * k,
            "temperature": 1.0 + k,
            "advantage_clip": 1.0 + 0.5 * k,
            "tau": 0.01 * (1 + k),
            "gamma": 0.9 + 0.03 * k,
        }

    assert_a_stack_is_its_runs(lambda k: make_iql(k, lr=1e-2 * (1 + k), **numbers(k)), 3)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.95])
def test_v_is_the_expectile(expectile):
    """The minimum over V of the loss of values 0 and 1: of expectile 1/2 their mean."""
    q = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def loss_of(v):
        return value_loss(lambda obs: torch.full((2, 1), v).double(), q, q, expectile)[0].item()

    grid = np.linspace(0, 1, 101)
    assert grid[np.argmin([loss_of(v) for v in grid])] == pytest.approx(expectile)


def test_it_acts_by_the_squashed_mean():
    algorithm = make_iql()
    batch = make_batch()
    found = algorithm.policy(Batch(obs=batch.obs)).act
    for obs, act in zip(batch.obs, found, strict=True):
        mean = algorithm.policy.actor.gaussian(obs)[:ACT_DIM].tolist()
        for a, m, low, high in zip(act, mean, SPACE.low, SPACE.high, strict=True):
            assert a == pytest.approx((low + high) / 2 + (high - low) / 2 * math.tanh(m))


@pytest.mark.parametrize(
    ("name", "value"),
    [("expectile", 1), ("temperature", -1), ("advantage_clip", 0), ("tau", 0), ("gamma", 2)],
)
def test_a_number_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        make_iql(**{name: value})


def test_the_choice_is_the_papers():
    cfg = compose("algo=iql")
    algo = {key: value for key, value in cfg.algo.items() if key != "_target_"}
    assert algo == {
        "expectile": 0.7,
        "temperature": 3.0,
        "advantage_clip": 100.0,
        "tau": 0.005,
        "gamma": 0.99,
    }
    assert cfg.actor_optim.lr == cfg.critic_optim.lr == cfg.value_optim.lr == 3e-4
    assert (cfg.actor_optim.schedule, cfg.critic_optim.schedule) == ("cosine", "constant")
    assert cfg.policy.action_scaling
    spaces = (SPACE, SPACE)
    built = algorithm_of(cfg, *spaces)
    assert built.policy.actor.gaussian.log_std.tolist() == [0, 0]
    assert built.policy.actor.unit.low.tolist() == [-1, -1]
    diverging, clipped = built.watches
    assert diverging.kind == "diverging Q"
    found = [list(clipped.out_of_bounds({"clip_fraction": share})) for share in (0.5, 0.51)]
    assert found == [[], ["clip_fraction 0.51, above 0.5"]]
