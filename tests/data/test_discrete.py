"""Data sets of discrete actions: their indices, their space, what is refused of them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from bcq_exp.data import behaviour, environments
from bcq_exp.data.datasets import load_minari
from bcq_exp.data.spaces import act_size
from bcq_exp.data.transitions import DataError

SPACE = Discrete(3, start=-1)


@pytest.fixture
def write(minari_files):
    """A set of two episodes with these actions, as the environment counts them."""

    def write(*episodes, space=SPACE):
        lengths = tuple(map(len, episodes))
        id = minari_files.write(lengths=lengths, action_space=space)

        def change(file):
            for i, actions in enumerate(episodes):
                del file[f"episode_{i}/actions"]
                file[f"episode_{i}/actions"] = np.asarray(actions)

        minari_files.edit(id, change)
        return id

    return write


def test_actions_are_indices_and_the_space_keeps_its_start(write):
    id = write([-1, 1, 0], [1, 1])
    for _ in range(2):  # the second time from the cache
        data = load_minari(id)
        assert data.transitions.act.tolist() == [[0], [2], [1], [2], [2]]
        assert data.transitions.act.dtype == data.transitions.obs.dtype == np.float32
        assert data.action_space == SPACE
    assert (act_size(SPACE), act_size(Box(-1, 1, (4,)))) == (1, 4)


def test_what_minaris_collector_records_is_read(home):
    from minari import DataCollector

    env = DataCollector(gym.make("CartPole-v1"))
    env.action_space.seed(0)
    taken = []
    for seed in range(2):
        env.reset(seed=seed)
        ended = False
        while not ended:
            taken.append(env.action_space.sample())
            *_, terminated, truncated, _ = env.step(taken[-1])
            ended = terminated or truncated
    env.create_dataset("my/random-v0")
    data = load_minari("my/random-v0", download=False)
    assert data.transitions.act[:, 0].tolist() == taken
    assert data.action_space == Discrete(2)
    assert data.make_env().spec.id == "CartPole-v1"


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (
            [0, 2, 1],
            r"act is 2 at episode 1, step 1; its space allows the integers -1 to 1; correct",
        ),
        ([0, 1, -2], "act is -2 at episode 1, step 2"),
        ([0.0, 0.5, 1.0], "act is 0.5 at episode 1, step 1"),
        ([0.0, np.nan, 1.0], "act is nan at episode 1, step 1"),
        ([[0, 1], [0, 1], [1, 1]], "act has 2 numbers a step, its space has 1"),
        ([b"a", b"b", b"c"], "act holds values of type"),
    ],
)
def test_actions_outside_the_space_are_named_by_their_step(write, actions, message):
    with pytest.raises(DataError, match=f"'test/toy-v0'.*{message}"):
        load_minari(write([0, 1], actions))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Discrete(1), r"is Discrete\(1\); at least 2 actions are needed"),
        (
            MultiDiscrete([2, 3]),
            r"MultiDiscrete\(\[2 3\]\); it must be a 1-D Box of floats or Disc",
        ),
    ],
)
def test_spaces_without_a_policy_are_refused(write, space, message):
    with pytest.raises(DataError, match=message):
        load_minari(write([0, 0], [0, 0], space=space))


def test_there_are_no_bounds_to_clip_to(write):
    with pytest.raises(DataError, match=r"clip_actions=true: its action space is Discrete\(3"):
        load_minari(write([0, 1], [0, 1]), clip_actions=True)


def test_an_environment_of_other_actions_is_refused(write):
    class Env(gym.Env):
        observation_space = Box(-9, 9, (2,))

        def __init__(self, action_space):
            self.action_space = action_space

    data = load_minari(write([0, 1], [0, 1]))
    for space in (Discrete(3), Discrete(4, start=-1), Box(-1, 1, (1,))):
        with pytest.raises(DataError, match=r"actions are Discrete\(3, start=-1\), but"):
            environments.check_fit("toy", Env(space), data.leaves, data.action_space)
    environments.check_fit("toy", Env(SPACE), data.leaves, data.action_space)
    state = data.environment_state
    assert environments.spaces_of_state(state)[1] == SPACE
    mine = environments.decisive(state)
    assert (mine["act_n"], mine["act_start"], mine["act_low"]) == (3, -1, None)
    box = environments.to_state("toy", None, data.observation_space, Box(-1, 1, (1,)))
    other = environments.decisive(box)
    assert {name for name, value in mine.items() if other[name] != value} == {
        "act_n", "act_start", "act_low", "act_high",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_of_actions_are_restored_exactly(dtype):
    space = Box(-2.0, 0.1, (1,), dtype)
    state = environments.to_state("toy", None, Box(-1, 1, (2,)), space)
    restored = environments.spaces_of_state(state)[1]
    assert restored == space and restored.dtype == space.dtype
    assert restored.high.tolist() == space.high.tolist()
    del state["act_dtype"]  # as an earlier version stored it
    assert environments.spaces_of_state(state)[1].dtype == np.float32


def test_random_actions_are_uniform_and_the_script_balances_the_pole():
    rng = np.random.default_rng(0)
    drawn = [int(behaviour.UniformRandom(SPACE)(None, rng)) for _ in range(3000)]
    _, counts = np.unique(drawn, return_counts=True)
    assert sorted(set(drawn)) == [-1, 0, 1] and (abs(counts - 1000) < 100).all()
    noisy = behaviour.Noisy(lambda obs, rng: np.asarray(1), SPACE, 0.0, 0.3)
    ones = np.mean([noisy(None, rng) == 1 for _ in range(3000)])
    assert ones == pytest.approx(0.7 + 0.3 / 3, abs=0.03)
    env = gym.make("CartPole-v1")
    episodes = behaviour.collect(env, behaviour.scripted("CartPole-v1"), num_steps=1000, seed=3)
    assert [len(episode) for episode in episodes] == [500, 500]
