"""Evaluation equals episodes played one by one, always from the same starts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from bcq_exp import VAE, Batch, BCQPolicy, Critic, Perturbation
from bcq_exp.training.evaluation import Agent, Evaluator, ObsNormalizer


class Countdown(gym.Env):
    """Ends after a number of steps that its seed decides: the one by termination or truncation."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-5.0, 5.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 30))
        self.truncates = bool(self.np_random.integers(2))
        return self.observe(), {}

    def observe(self):
        return np.array([self.left, self.np_random.normal()], np.float32)

    def step(self, action):
        self.left -= 1
        ended = self.left == 0
        reward = float(action[0]) + self.np_random.normal()
        return self.observe(), reward, ended and not self.truncates, ended and self.truncates, {}


class Doubles:
    """A policy whose action is half the second observation; the environment's is twice that."""

    def __init__(self):
        self.asked = 0

    def __call__(self, batch, generator):
        self.asked += len(batch.obs)
        return Batch(act=np.asarray(batch.obs[:, 1:]) / 2)

    def map_action(self, act):
        return 2 * act


def one_by_one(agent, seeds):
    returns, lengths = [], []
    for seed in seeds:
        env, total, length, ended = Countdown(), 0.0, 0, False
        obs, _ = env.reset(seed=seed)
        while not ended:
            act = agent.act(obs[None], torch.Generator())[0]
            obs, reward, terminated, truncated, _ = env.step(act)
            total, length, ended = total + reward, length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    return returns, lengths


@pytest.mark.parametrize("normalizer", [None, ObsNormalizer(np.ones(2), np.full(2, 3.0))])
def test_side_by_side_is_one_by_one(normalizer):
    agent = Agent(Doubles(), normalizer)
    results = Evaluator(Countdown, 12, seed=40).evaluate(agent)
    asked = agent.policy.asked
    returns, lengths = one_by_one(agent, range(40, 52))
    assert results.lengths.tolist() == lengths
    np.testing.assert_allclose(results.returns, returns, rtol=1e-9)
    assert len(set(lengths)) > 5
    assert asked == sum(lengths)  # no action for an episode that is over
    assert results.return_mean == pytest.approx(np.mean(returns))
    assert results.return_std == pytest.approx(np.std(returns))
    assert results.length_mean == pytest.approx(np.mean(lengths))


def pendulum_agent():
    sizes = {"obs_dim": 3, "act_dim": 1, "hidden_sizes": (8, 8)}
    bounds = {"low": [-2.0], "high": [2.0]}
    torch.manual_seed(0)
    return Agent(
        BCQPolicy(
            actor_perturbation=Perturbation(**sizes, **bounds),
            critic=Critic(**sizes),
            vae=VAE(**sizes, **bounds),
            action_space=Box(-2.0, 2.0, (1,)),
            forward_sampled_times=5,
        )
    )


def pendulum():
    return gym.make("Pendulum-v1")


def test_evaluating_twice_is_the_same_and_another_seed_is_not():
    agent = pendulum_agent()
    evaluator, other = Evaluator(pendulum, 3, seed=7), Evaluator(pendulum, 3, seed=8)
    first, again = evaluator.evaluate(agent), evaluator.evaluate(agent)
    assert np.array_equal(first.returns, again.returns)
    assert first.lengths.tolist() == [200] * 3
    assert not np.array_equal(first.returns, other.evaluate(agent).returns)


def test_evaluating_leaves_global_generators_alone():
    agent = pendulum_agent()
    numpys, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
    Evaluator(pendulum, 2, seed=7).evaluate(agent)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


def test_the_normalizer_gives_mean_zero_and_deviation_one():
    obs = np.random.default_rng(0).normal([3.0, -50.0], [2.0, 0.1], (1000, 2)).astype(np.float32)
    obs = np.concatenate([obs, np.full((1000, 1), 4.0, np.float32)], 1)
    scaled = ObsNormalizer.of(obs)(obs)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-3)
    assert scaled.dtype == np.float32


def test_a_saved_normalizer_is_the_same():
    normalizer = ObsNormalizer.of(np.random.default_rng(0).normal(size=(10, 3)))
    copy = ObsNormalizer.from_state_dict(normalizer.state_dict())
    assert np.array_equal(copy.mean, normalizer.mean)
    assert np.array_equal(copy.std, normalizer.std)
