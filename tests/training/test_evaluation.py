"""Evaluation equals episodes played one by one, always from the same starts."""

import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import NormalizeReward, TimeLimit
from torch import nn

from bcq_exp import VAE, BCQPolicy, Critic, Perturbation
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import UserError
from bcq_exp.training import video
from bcq_exp.training.evaluation import Agent, Evaluator, ObsNormalizer, Stopped
from tests.commands import algorithm_of, compose


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


def countdown():
    return TimeLimit(Countdown(), 100)


class Doubles:
    """A policy whose action is half the second observation; the environment's is twice that."""

    observation_space = None

    def __init__(self):
        self.asked = 0

    def act(self, obs, generator):
        self.asked += len(obs)
        return 2 * (obs[:, 1:] / 2)


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
    results = Evaluator(countdown, 12, seed=40).evaluate(agent)
    asked = agent.policy.asked
    returns, lengths = one_by_one(agent, range(40, 52))
    assert results.lengths.tolist() == lengths
    np.testing.assert_allclose(results.returns, returns, rtol=1e-9)
    assert len(set(lengths)) > 5
    assert asked == sum(lengths)  # no action for an episode that is over
    assert results.return_mean == pytest.approx(np.mean(returns))
    assert results.return_std == pytest.approx(np.std(returns))
    assert results.length_mean == pytest.approx(np.mean(lengths))


class Remembering(Countdown):
    """Penalizes changes of the action, which it keeps and writes to; a busy ``info``."""

    def reset(self, *, seed=None, options=None):
        self.last = None
        return super().reset(seed=seed)

    def step(self, action):
        change = 0.0 if self.last is None else float(action[0] - self.last[0])
        self.last = action
        obs, reward, terminated, truncated, _ = super().step(action)
        action += 1
        info = {"seen": np.zeros((self.left, 2)), "place": {"x": 1} if self.left % 2 else None}
        return obs, reward - change, terminated, truncated, info


def test_an_environment_may_keep_and_change_its_actions():
    agent = Agent(Doubles())
    results = Evaluator(lambda: TimeLimit(Remembering(), 100), 12, seed=40).evaluate(agent)
    for i in range(12):
        env, total, ended = Remembering(), 0.0, False
        obs, _ = env.reset(seed=40 + i)
        while not ended:
            act = agent.act(obs[None], None)[0].astype(np.float32)
            obs, reward, terminated, truncated, _ = env.step(act)
            total, ended = total + reward, terminated or truncated
        assert results.returns[i] == pytest.approx(total, rel=1e-9)


class Fragile(Countdown):
    def close(self):
        raise RuntimeError("the simulator has gone")


def test_an_environment_that_fails_to_close_is_evaluated():
    results = Evaluator(lambda: TimeLimit(Fragile(), 100), 2, seed=40).evaluate(Agent(Doubles()))
    assert results.lengths.tolist() == one_by_one(Agent(Doubles()), (40, 41))[1]


def test_an_observation_of_another_shape_is_an_error():
    class Short(Countdown):
        def observe(self):
            return np.ones(1, np.float32)

    with pytest.raises(ValueError, match=r"has the shape \(1,\), its space \(2,\)"):
        Evaluator(lambda: TimeLimit(Short(), 100), 2, seed=40).evaluate(Agent(Doubles()))


def test_every_evaluation_begins_with_new_environments():
    evaluator = Evaluator(lambda: NormalizeReward(countdown()), 5, seed=40)
    first, second = (evaluator.evaluate(Agent(Doubles())) for _ in range(2))
    np.testing.assert_array_equal(first.returns, second.returns)


class Tensors(Doubles):
    """The same, whose observations and actions can become tensors."""

    def map_action_inverse(self, act):
        return act / 2

    def as_tensor(self, x):
        return torch.as_tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("normalizer", [None, ObsNormalizer(np.ones(2), np.full(2, 3.0))])
def test_discounted_returns_and_what_the_critic_took_them_to_be(normalizer):
    agent = Agent(Tensors(), normalizer, lambda obs, act: obs[:, 1] + 10 * act[:, 0], gamma=0.9)
    results = Evaluator(countdown, 12, seed=40).evaluate(agent)
    for i in range(12):
        env, discounted, discount, ended = Countdown(), 0.0, 1.0, False
        obs, _ = env.reset(seed=40 + i)
        seen = obs if normalizer is None else normalizer(obs)
        assert results.values[i] == pytest.approx(seen[1] + 10 * seen[1] / 2, rel=1e-6)
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(agent.act(obs[None], None)[0])
            discounted, discount = discounted + discount * reward, discount * 0.9
            ended = terminated or truncated
        assert results.discounted_returns[i] == pytest.approx(discounted, rel=1e-9)
    assert results.discounted_return_mean == pytest.approx(results.discounted_returns.mean())
    assert results.value_mean == pytest.approx(results.values.mean())


def test_without_a_critic_nothing_is_estimated():
    results = Evaluator(countdown, 2, seed=40).evaluate(Agent(Doubles()))
    assert results.discounted_return_mean is None and results.value_mean is None


@pytest.mark.parametrize("name", ["bcq", "ddpg", "td3_bc", "iql", "cql", "dqn", "bc", "vae_bc"])
def test_each_algorithms_value_is_its_critics(name):
    data = load_pendulum("mixture", num_steps=200)
    algorithm = algorithm_of(compose(f"algo={name}"), data.observation_space, data.action_space)
    agent = Agent.of(algorithm, None)
    obs = data.transitions.obs[:5]
    act = agent.act(obs, torch.Generator().manual_seed(0))
    found = agent.value(obs, act)
    if name in ("bc", "vae_bc"):
        assert found is None and agent.gamma is None
        return
    assert agent.gamma == 0.99
    unit = algorithm.policy.map_action_inverse(act)
    obs, unit = algorithm.policy.as_tensor(obs), algorithm.policy.as_tensor(unit)
    networks = algorithm.networks
    with torch.no_grad():
        expected = networks.critic(obs).max(-1).values if name == "dqn" else None
        expected = networks.critic(obs, unit)[:, 0] if expected is None else expected
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_an_agent_can_be_pickled():
    data = load_pendulum("mixture", num_steps=200)
    algorithm = algorithm_of(compose("algo=bcq"), data.observation_space, data.action_space)
    agent, t = Agent.of(algorithm, None), data.transitions
    again = pickle.loads(pickle.dumps(agent))
    np.testing.assert_array_equal(again.value(t.obs, t.act), agent.value(t.obs, t.act))


def test_a_value_of_another_shape_is_refused(monkeypatch):
    data = load_pendulum("mixture", num_steps=200)
    algorithm = algorithm_of(compose("algo=iql"), data.observation_space, data.action_space)
    monkeypatch.setattr(algorithm, "value", lambda obs, act: algorithm.critic(obs, act))
    t = data.transitions
    with pytest.raises(UserError, match=r"IQL.value: must return the shape \(5,\), a value of"):
        Agent.of(algorithm, None).value(t.obs[:5], t.act[:5])


def test_values_are_in_evaluation_mode():
    data = load_pendulum("mixture", num_steps=200)
    algorithm = algorithm_of(compose("algo=iql"), data.observation_space, data.action_space)
    algorithm.critic = nn.Sequential(algorithm.critic, nn.Dropout())
    algorithm.critic.forward = lambda obs, act: algorithm.critic[1](algorithm.critic[0](obs, act))
    agent, t = Agent.of(algorithm, None), data.transitions
    np.testing.assert_array_equal(*(agent.value(t.obs[:5], t.act[:5]) for _ in range(2)))


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


def test_an_environment_without_a_step_limit_is_refused_before_an_episode():
    refusal = "environment 'Countdown' has no step limit.*register it with max_episode_steps"
    with pytest.raises(DataError, match=refusal):
        Evaluator(Countdown, 2, seed=0)


def test_an_evaluation_ends_at_the_step_at_which_it_is_asked_to():
    asked = iter([False] * 7 + [True])
    agent = pendulum_agent()
    evaluator = Evaluator(pendulum, 2, seed=7)
    expected = evaluator.evaluate(agent)
    with pytest.raises(Stopped):
        evaluator.evaluate(agent, lambda: next(asked))
    assert next(asked, None) is None
    assert np.array_equal(evaluator.evaluate(agent).returns, expected.returns)


def test_a_film_is_the_first_episode(tmp_path):
    agent, rewards = pendulum_agent(), []

    def brief(**options):
        return gym.make("Pendulum-v1", max_episode_steps=40, **options)

    results = Evaluator(brief, 3, seed=7).evaluate(agent)

    class Watched(gym.Wrapper):
        def step(self, action):
            *seen, _ = moved = self.env.step(action)
            rewards.append(seen[1])
            return moved

    film = partial(video.film, make_env=lambda **options: Watched(brief(**options)))
    assert film(results.first_actions, path=tmp_path / "a.gif", seed=7) == 40
    assert sum(rewards) == pytest.approx(results.returns[0], rel=1e-12)
    alone = Evaluator(brief, 1, seed=7).evaluate(agent)
    assert alone.returns[0] != pytest.approx(results.returns[0], rel=1e-6)  # it draws


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


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e6])
def test_scaled_observations_do_not_depend_on_the_unit(unit):
    varying = np.random.default_rng(0).normal(3.0, 0.5, (1000, 1))
    obs = np.concatenate([varying, np.full((1000, 1), 0.1)], 1)
    scaled = ObsNormalizer.of((unit * obs).astype(np.float32))((unit * obs).astype(np.float32))
    np.testing.assert_allclose(scaled, ObsNormalizer.of(obs)(obs), atol=1e-4)
    np.testing.assert_allclose(scaled.std(0), [1, 0], atol=1e-4)


def test_a_column_that_only_rounding_moves_is_constant():
    neighbours = np.nextafter(np.float32(1e6), np.float32([0, 2e6]))
    obs = np.resize(neighbours, (100, 1))
    assert np.abs(ObsNormalizer.of(obs)(obs)).max() < 0.1


def test_a_scaled_agent_does_not_broadcast_observations():
    policy = Tensors()
    policy.observation_space = Box(-1, 1, (2,))
    agent = Agent(policy, ObsNormalizer(np.ones(2), np.ones(2)))
    assert agent.predict(np.zeros(2))[0].ndim == 1
    for act in (agent.act, agent.predict):
        with pytest.raises(ValueError, match=r"must have the shape \(B, 2\), not \(3, 1\)"):
            act(np.zeros((3, 1)))


def test_a_saved_normalizer_is_the_same():
    normalizer = ObsNormalizer.of(np.random.default_rng(0).normal(size=(10, 3)))
    copy = ObsNormalizer.from_state_dict(normalizer.state_dict())
    assert np.array_equal(copy.mean, normalizer.mean)
    assert np.array_equal(copy.std, normalizer.std)
