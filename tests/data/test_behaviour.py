import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete

from bcq_exp.data.behaviour import Noisy, UniformRandom, collect, save, scripted, swing_up
from bcq_exp.data.datasets import load_minari
from bcq_exp.data.minari_store import check_new, local_ids
from bcq_exp.data.transitions import DataError

WIDE = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
CENTRE = np.array([0.0, 5.0])
OBS = np.zeros(3, np.float32)


def centre(obs, rng):
    return CENTRE


def draw(behaviour, count=20_000, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([behaviour(OBS, rng) for _ in range(count)])


@pytest.fixture
def env():
    env = gym.make("Pendulum-v1")
    yield env
    env.close()


def test_uniform_random_fills_the_space():
    actions = draw(UniformRandom(WIDE))
    assert actions.dtype == np.float32
    assert np.all((actions >= WIDE.low) & (actions <= WIDE.high))
    assert actions.mean(axis=0) == pytest.approx(CENTRE, abs=0.1)
    assert actions.std(axis=0) == pytest.approx(np.array([4, 10]) / np.sqrt(12), rel=0.03)


def test_noise_is_in_units_of_half_the_range():
    actions = draw(Noisy(centre, WIDE, noise_std=0.1, random_action_prob=0.0))
    assert actions.mean(axis=0) == pytest.approx(CENTRE, abs=0.02)
    assert actions.std(axis=0) == pytest.approx([0.2, 0.5], rel=0.03)


def test_noisy_actions_are_clipped_to_the_space():
    actions = draw(Noisy(centre, WIDE, noise_std=2.0, random_action_prob=0.0), 1000)
    assert actions.min(axis=0).tolist() == WIDE.low.tolist()
    assert actions.max(axis=0).tolist() == WIDE.high.tolist()


def test_the_share_of_random_actions():
    actions = draw(Noisy(centre, WIDE, noise_std=0.0, random_action_prob=0.3))
    random = np.any(actions != CENTRE, axis=1)
    assert random.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / len(actions)))
    assert actions[random].std(axis=0) == pytest.approx(np.array([4, 10]) / np.sqrt(12), rel=0.05)


def test_the_scripted_pendulum_swings_up_and_stays(env):
    episodes = collect(env, swing_up, num_steps=4000, seed=1)
    assert -220 < np.mean([sum(episode.rewards) for episode in episodes]) < -110
    for episode in episodes:
        assert episode.observations[-20:, 0].min() > 0.99  # cos: upright


def test_scripted_knows_its_environments():
    assert scripted("Pendulum-v1") is swing_up
    with pytest.raises(
        DataError, match="'Hopper-v5' has no scripted behaviour; there is one for Pendulum-v1"
    ):
        scripted("Hopper-v5")


def test_collect_gives_exactly_the_steps_asked_for(env):
    ticks = []
    episodes = collect(
        env, UniformRandom(env.action_space), num_steps=450, seed=0, on_step=ticks.append
    )
    assert [len(episode) for episode in episodes] == [200, 200, 50]
    assert ticks == list(range(1, 451))
    for episode in episodes:
        assert episode.observations.shape == (len(episode) + 1, 3)
        assert episode.observations.dtype == np.float32
        assert episode.truncations == [False] * (len(episode) - 1) + [True]
        assert not any(episode.terminations)


def test_collect_keeps_observations_and_actions_that_the_environment_overwrites():
    class InPlace(gym.Env):
        observation_space, action_space = Box(0.0, 100.0, (1,)), Box(-1.0, 1.0, (1,))
        state = np.zeros(1, np.float32)

        def reset(self, *, seed=None, options=None):
            self.state *= 0
            return self.state, {}

        def step(self, action):
            self.state += 1
            action += 1
            return self.state, 0.0, False, False, {}

    (episode,) = collect(InPlace(), lambda obs, rng: obs[:1] / 100, num_steps=5, seed=0)
    np.testing.assert_array_equal(episode.observations[:, 0], np.arange(6))
    np.testing.assert_allclose(episode.actions[:, 0], np.arange(5) / 100)


@pytest.mark.parametrize(("reward", "next_obs"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan)])
def test_collect_refuses_numbers_that_are_not_finite(reward, next_obs, env, monkeypatch):
    obs = np.full(3, next_obs, np.float32)
    monkeypatch.setattr(env.unwrapped, "step", lambda _: (obs, reward, False, False, {}))
    with pytest.raises(DataError, match="that is NaN or infinite in episode 0, which began at"):
        collect(env, swing_up, num_steps=5, seed=0)


def test_collect_is_decided_by_its_seed(env):
    behaviour = UniformRandom(env.action_space)
    one, same, other = (collect(env, behaviour, num_steps=250, seed=s) for s in (3, 3, 4))
    assert [e.seed for e in one] == [e.seed for e in same] != [e.seed for e in other]
    assert len({e.seed for e in one}) == 2
    for first, second in zip(one, same, strict=True):
        assert np.array_equal(first.actions, second.actions)
        assert np.array_equal(first.observations, second.observations)
    assert not np.array_equal(one[0].actions, other[0].actions)


def test_a_terminal_on_the_last_step_is_not_truncated():
    env = gym.make("InvertedPendulum-v5")
    behaviour = UniformRandom(env.action_space)
    (first, *_) = collect(env, behaviour, num_steps=50, seed=0)
    (again,) = collect(env, behaviour, num_steps=len(first), seed=0)
    assert again.terminations[-1]
    assert not any(again.truncations)


def test_collect_refuses_what_it_cannot_run(env):
    with pytest.raises(DataError, match="num_steps is 0"):
        collect(env, swing_up, num_steps=0, seed=0)
    two = gym.make("CartPole-v1")
    two.action_space = MultiDiscrete([2, 2])
    with pytest.raises(DataError, match=r"MultiDiscrete\(\[2 2\]\); it must be a 1-D Box"):
        collect(two, swing_up, num_steps=1, seed=0)


def store(env, behaviour, id="test/pendulum-v0", num_steps=250, **options):
    episodes = collect(env, behaviour, num_steps=num_steps, seed=0)
    task = (env.observation_space, env.action_space, env.spec)
    save(id, episodes, task, algorithm_name="test", description="a test", **options)
    return episodes


def test_what_is_saved_is_loaded(env):
    episodes = store(env, swing_up)
    dataset = load_minari("test/pendulum-v0", download=False)
    steps = dataset.transitions
    assert np.array_equal(steps.obs[:200], episodes[0].observations[:-1])
    assert np.array_equal(steps.act[200:], episodes[1].actions)
    assert np.flatnonzero(steps.truncated).tolist() == [199, 249]
    assert dataset.env_spec.id == "Pendulum-v1"
    assert dataset.make_env().action_space == dataset.action_space


def test_data_of_an_environment_registered_with_a_class_are_saved():
    gym.register("Classy-v0", entry_point=gym.envs.classic_control.PendulumEnv)
    try:
        store(gym.make("Classy-v0"), swing_up, num_steps=20)
        assert load_minari("test/pendulum-v0").env_spec == gym.spec("Classy-v0")
    finally:
        del gym.registry["Classy-v0"]
    assert load_minari("test/pendulum-v0").env_spec is None


def test_minari_itself_knows_what_is_saved(env):
    import minari

    store(env, swing_up)
    dataset = minari.load_dataset("test/pendulum-v0")
    assert dataset.total_steps == 250
    assert dataset.storage.metadata["algorithm_name"] == "test"
    assert list(minari.list_local_datasets()) == ["test/pendulum-v0"]
    assert minari.namespace.list_local_namespaces() == ["test"]


def test_an_existing_id_is_replaced_only_when_asked(env):
    store(env, swing_up)
    with pytest.raises(DataError, match="'test/pendulum-v0' already exists"):
        store(env, swing_up, num_steps=20)
    assert len(load_minari("test/pendulum-v0").transitions) == 250
    store(env, swing_up, num_steps=20, overwrite=True)
    assert len(load_minari("test/pendulum-v0").transitions) == 20
    assert local_ids() == ["test/pendulum-v0"]


def test_a_malformed_id_is_refused(env):
    with pytest.raises(DataError, match="not a Minari id"):
        store(env, swing_up, id="no version", num_steps=1)


def test_no_data_set_lies_in_another_or_around_others(env):
    store(env, swing_up, id="test-v0/pendulum-v0")
    for id, said in (
        ("test-v0", "is not a data set"),
        ("test-v0/pendulum-v0/x-v0", "is a data set"),
    ):
        for overwrite in (False, True):
            with pytest.raises(DataError, match=said):
                check_new(id, overwrite=overwrite)
    assert local_ids() == ["test-v0/pendulum-v0"]


def test_what_is_replaced_comes_back_if_a_signal_comes_between(env, monkeypatch):
    store(env, swing_up)
    rename = os.rename

    def stopped(source, target):
        if Path(source).name == "new":
            raise SystemExit(143)
        rename(source, target)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(SystemExit):
        store(env, swing_up, num_steps=20, overwrite=True)
    assert len(load_minari("test/pendulum-v0").transitions) == 250
