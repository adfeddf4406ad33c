"""Thousands of made-up data sets: loaded as a slow, obvious reference loads them, or one line.

A few hundred, always the same, run with the other tests; ``-m faults`` tries thousands of others.
"""

import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcq_exp.data.datasets import Dataset, load_d4rl_hdf5, load_minari
from bcq_exp.data.transitions import DataError
from tests.data import made_up, reference

ID = "fuzz/set-v0"
SOME = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(SOME, max_examples=3_000)
ENVS = {
    "BcqFuzz-v0": (Box(-np.inf, np.inf, (2,), np.float64), None),
    "BcqFuzzLimit-v0": (Box(-1.0, 7.5, (1,), np.float32), 3),
}
ACTIONS = Box(-1.0, 1.0, (1,), np.float32)


class FuzzEnv(gym.Env):
    action_space = ACTIONS

    def __init__(self, observation_space: Box) -> None:
        self.observation_space = observation_space


@pytest.fixture(autouse=True)
def envs():
    for name, (space, limit) in ENVS.items():
        kwargs = {"observation_space": space}
        gym.register(name, entry_point=FuzzEnv, max_episode_steps=limit, kwargs=kwargs)
    yield
    for name in ENVS:
        del gym.registry[name]


def agree(load, refer) -> None:
    """Both refuse, or both have the same numbers."""
    try:
        expected = refer()
    except reference.Refused as refused:
        with pytest.raises(DataError) as caught:
            load()
        assert "\n" not in str(caught.value), refused
        assert str(caught.value).startswith(("data set 'fuzz/set-v0'", "data set 'fuzz'"))
        return
    same(load(), expected)


def same(dataset: Dataset, expected: dict) -> None:
    for name, array in dataset.transitions.arrays().items():
        rows = [row[name] for row in expected["rows"]]
        assert array.tolist() == np.array(rows, array.dtype).reshape(array.shape).tolist(), name
    assert dataset.episode_lengths.tolist() == expected["lengths"]
    np.testing.assert_allclose(dataset.episode_returns, expected["returns"], rtol=1e-9, atol=1e-9)


def try_minari(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", root)
        folder = Path(root) / ID / "data"
        spaces = data.draw(made_up.minari_sets(folder))
        agree(
            lambda: load_minari(ID, download=False, use_cache=False),
            lambda: reference.minari(folder, *spaces),
        )


def try_d4rl(data: st.DataObject) -> None:
    env = data.draw(st.sampled_from(sorted(ENVS)))
    space, limit = ENVS[env]
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "fuzz.hdf5"
        data.draw(made_up.d4rl_files(path, space, ACTIONS))
        agree(
            lambda: load_d4rl_hdf5(str(path), env=env, use_cache=False),
            lambda: reference.d4rl(path, space, ACTIONS, limit),
        )


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [try_minari, try_d4rl])
def test_some_data_sets_are_loaded_as_the_reference_does(attempt):
    SOME(given(st.data())(lambda data: attempt(data)))()


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("attempt", [try_minari, try_d4rl])
def test_many_data_sets_are_loaded_as_the_reference_does(attempt, record_property):
    record_property("tried", (f"generated data sets, {attempt.__name__[4:]}", MANY.max_examples))
    MANY(given(st.data())(lambda data: attempt(data)))()
