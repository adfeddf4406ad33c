"""Data sets and their environments."""

import pickle
import subprocess
import sys
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box

from bcq_exp.data.datasets import load_minari, load_pendulum
from bcq_exp.data.env_specs import guess_env
from bcq_exp.data.transitions import DataError

PENDULUM = {
    "observation_space": Box(-8, 8, (3,), np.float32),
    "action_space": Box(-2.0, 2.0, (1,), np.float32),
    "observations": lambda _, length: np.zeros((length + 1, 3), np.float32),
}


class GoalEnv(gym.Env):
    """Observations in two parts, whose order the keyword decides."""

    def __init__(self, keys: str = "ab", render_mode: str | None = None):
        sizes = {"a": 2, "b": 1}
        parts = OrderedDict((key, Box(-1, 1, (sizes[key],), np.float32)) for key in keys)
        self.observation_space = spaces.Dict(parts)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"a": np.full(2, 0.5, np.float32), "b": np.full(1, -0.5, np.float32)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


@pytest.fixture
def goal_env():
    gym.register("BcqGoal-v0", entry_point=GoalEnv, max_episode_steps=5)
    yield "BcqGoal-v0"
    del gym.registry["BcqGoal-v0"]


def goal_data(minari_files, keys="ab"):
    def observations(_, length):
        zeros = {"a": np.zeros((length + 1, 2), np.float32), "b": np.zeros((length + 1, 1))}
        return {key: zeros[key].astype(np.float32) for key in keys}

    parts = GoalEnv().observation_space
    return minari_files.write(observation_space=parts, observations=observations)


def test_make_env(minari_files):
    dataset = load_minari(minari_files.write(**PENDULUM), env="Pendulum-v1")
    env = dataset.make_env(render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    assert env.observation_space.shape == (3,)
    assert env.reset(seed=0)[0].shape == (3,)


def test_make_env_flattens_a_dict(minari_files, goal_env):
    dataset = load_minari(goal_data(minari_files), env=goal_env)
    observation, _ = dataset.make_env().reset(seed=0)
    assert observation.tolist() == [0.5, 0.5, -0.5]


def test_an_environment_with_the_parts_in_another_order_is_refused(minari_files, goal_env):
    dataset = load_minari(goal_data(minari_files), env=goal_env)
    message = r"observations are a \(2\), b \(1\), but .*'BcqGoal-v0' gives b \(1\), a \(2\)"
    with pytest.raises(DataError, match=message):
        dataset.make_env(keys="ba")


def test_an_environment_with_other_observations_is_refused(minari_files):
    dataset = load_minari(minari_files.write(), env="Pendulum-v1")
    with pytest.raises(DataError, match=r"observation \(2\), but .* gives observation \(3\)"):
        dataset.make_env()


def test_an_environment_with_other_actions_is_refused(minari_files):
    kinds = PENDULUM | {"action_space": Box(-1.0, 1.0, (1,), np.float32)}
    dataset = load_minari(minari_files.write(**kinds), env="Pendulum-v1")
    with pytest.raises(DataError, match="its actions are Box.*'Pendulum-v1' takes Box"):
        dataset.make_env()


def test_an_environment_with_discrete_actions_is_refused(minari_files):
    kinds = {"observations": lambda _, length: np.zeros((length + 1, 4))}
    kinds |= {"observation_space": Box(-1, 1, (4,))}
    dataset = load_minari(minari_files.write(**kinds), env="CartPole-v1")
    with pytest.raises(DataError, match=r"its actions are Box.*'CartPole-v1' takes Discrete\(2\)"):
        dataset.make_env()


def test_data_without_an_environment_asks_for_one(minari_files):
    with pytest.raises(DataError, match="'test/toy-v0' names no environment; set dataset.env"):
        load_minari(minari_files.write()).make_env()


@pytest.mark.parametrize(
    "env", ["Nowhere-v0", "Pendulum-v99", "no_module:Env-v0", "bad id!", "./own:Env-v0"]
)
def test_an_unknown_environment_is_refused(minari_files, env):
    with pytest.raises(DataError, match=f"{env!r} is not registered with Gymnasium"):
        load_minari(minari_files.write(), env=env)


def test_an_environment_that_cannot_be_made(minari_files):
    dataset = load_minari(minari_files.write(**PENDULUM), env="Pendulum-v1")
    with pytest.raises(DataError, match="'Pendulum-v1' cannot be made .*unexpected keyword"):
        dataset.make_env(nonsense=1)


def test_a_module_is_imported_for_its_environments(minari_files, tmp_path, monkeypatch):
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Theirs-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    dataset = load_minari(minari_files.write(**PENDULUM), env="their_envs:Theirs-v0")
    assert dataset.make_env().action_space == dataset.action_space


def test_episodes_that_the_recording_cut_are_counted():
    """An episode of Pendulum has 200 steps."""
    whole, cut = (load_pendulum("expert", num_steps=n) for n in (400, 250))
    assert list(cut.episode_lengths) == [200, 50]
    assert (cut.num_cut, cut.facts()["cut_episodes"]) == (1, 1)
    assert whole.num_cut == 0 and "cut_episodes" not in whole.facts()


def test_a_dataset_can_be_pickled(minari_files):
    dataset = load_minari(minari_files.write(**PENDULUM), env="Pendulum-v1")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.content_hash == dataset.content_hash
    assert copy.env_spec == dataset.env_spec
    assert copy.make_env().observation_space.shape == (3,)
    assert np.array_equal(copy.transitions.obs, dataset.transitions.obs)


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("hopper_medium-v2.hdf5", "Hopper-v5"),
        ("HalfCheetah-expert.hdf5", "HalfCheetah-v5"),
        ("walker2d_random-v2.hdf5", "Walker2d-v5"),
        ("ant_medium.hdf5", "Ant-v5"),
        ("ant.hdf5", "Ant-v5"),
        ("pendulum.hdf5", "Pendulum-v1"),
        ("Ant_maze_big-maze_noisy.hdf5", None),
        ("antmaze-umaze.hdf5", None),
        ("anthill.hdf5", None),
        ("inverted_pendulum.hdf5", None),
        ("data.hdf5", None),
    ],
)
def test_environments_guessed_from_file_names(name, env):
    assert guess_env(name) == env


def test_importing_the_package_stays_light():
    code = (
        "import sys, bcq_exp.data.datasets, bcq_exp.data.behaviour\n"
        "print([m for m in ('torch', 'hydra', 'minari', 'h5py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
