"""D4RL files, with edges worked out by hand. Row i has obs 10 i, act i / 100 and rew i."""

from contextlib import suppress

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from bcq_exp.data.datasets import load_d4rl_hdf5
from bcq_exp.data.transitions import DataError
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_DATA
from tests.forked import forked

NO_EVALUATION = (
    *(*ANY_DATA, "trainer.eval_episodes=0", "trainer.num_steps=10", "trainer.batch_size=4"),
)


class LineEnv(gym.Env):
    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)


class ShortEnv(LineEnv):
    observation_space = Box(-1.0, 20.0, (1,), np.float64)


@pytest.fixture(autouse=True)
def line_envs():
    gym.register("BcqLine-v0", entry_point=LineEnv)
    gym.register("BcqLine3-v0", entry_point=LineEnv, max_episode_steps=3)
    gym.register("BcqShort-v0", entry_point=ShortEnv, max_episode_steps=9)
    yield
    for name in ("BcqLine-v0", "BcqLine3-v0", "BcqShort-v0"):
        del gym.registry[name]


@pytest.fixture
def load(tmp_path):
    """Write a file of ``n`` rows (flags by row number) and load it."""

    def load(
        n, *, terminals=(), timeouts=None, follow=False, env="BcqLine-v0", flags=None, options=None,
        **new,
    ):  # fmt: skip
        rows = np.arange(n)
        arrays = {
            "observations": 10.0 * rows[:, None],
            "actions": (rows[:, None] / 100).astype(np.float32),
            "rewards": rows.astype(float),
            "terminals": np.isin(rows, terminals),
        }
        if timeouts is not None:
            arrays["timeouts"] = np.isin(rows, timeouts)
        if follow:
            arrays["next_observations"] = 10.0 * rows[:, None] + 5
        path = tmp_path / "toy-v2.hdf5"
        with h5py.File(path, "w") as file:
            for name, array in (arrays | (flags or {}) | new).items():
                if array is not None:
                    file[name] = array
        return load_d4rl_hdf5(str(path), env=env, **(options or {}))

    return load


def rows_of(dataset):
    return (dataset.transitions.obs[:, 0] / 10).astype(int).tolist()


def test_next_observations_keep_every_row(load):
    dataset = load(6, terminals=[1], timeouts=[3], follow=True)
    steps = dataset.transitions
    assert rows_of(dataset) == [0, 1, 2, 3, 4, 5]
    assert steps.obs_next[:, 0].tolist() == [5, 15, 25, 35, 45, 55]
    assert np.flatnonzero(steps.terminated).tolist() == [1]
    assert np.flatnonzero(steps.truncated).tolist() == [3, 5]  # 5: the recording stops
    assert dataset.episode_lengths.tolist() == [2, 2, 2]
    assert dataset.episode_returns.tolist() == [1, 5, 9]


def test_without_next_observations_unknown_successors_are_dropped(load):
    dataset = load(8, terminals=[1], timeouts=[4])
    steps = dataset.transitions
    assert rows_of(dataset) == [0, 1, 2, 3, 5, 6]  # 4 timed out, 7 stopped
    assert steps.obs_next[:, 0].tolist() == [10, 10, 30, 40, 60, 70]  # 1: terminal, its own
    assert steps.terminated.tolist() == [False, True, False, False, False, False]
    assert steps.truncated.tolist() == [False, False, False, True, False, True]
    assert steps.rew.tolist() == [0, 1, 2, 3, 5, 6]
    assert dataset.episode_lengths.tolist() == [2, 3, 3]
    assert dataset.episode_returns.tolist() == [1, 9, 18]


def test_a_terminal_beats_a_timeout(load):
    dataset = load(4, terminals=[1, 3], timeouts=[1, 3])
    assert rows_of(dataset) == [0, 1, 2, 3]
    assert dataset.transitions.terminated.tolist() == [False, True, False, True]
    assert not dataset.transitions.truncated.any()


def test_a_final_terminal_is_kept(load):
    dataset = load(3, terminals=[2], timeouts=[])
    assert rows_of(dataset) == [0, 1, 2]
    assert dataset.transitions.obs_next[:, 0].tolist() == [10, 20, 20]


def test_an_episode_of_one_timed_out_row_leaves_nothing(load):
    dataset = load(4, terminals=[3], timeouts=[0])
    assert rows_of(dataset) == [1, 2, 3]
    assert dataset.episode_lengths.tolist() == [1, 3]
    assert not dataset.transitions.truncated.any()


def test_without_timeouts_the_step_limit_cuts(load):
    # Limit 3: rows 0-2 | 3, 4 terminal | 5-7 | 8 stops.
    dataset = load(9, terminals=[4], env="BcqLine3-v0")
    assert rows_of(dataset) == [0, 1, 3, 4, 5, 6]
    assert dataset.episode_lengths.tolist() == [3, 2, 3, 1]
    assert np.flatnonzero(dataset.transitions.truncated).tolist() == [1, 5]


def test_a_terminal_on_the_step_limit_is_a_terminal(load):
    dataset = load(6, terminals=[2, 5], env="BcqLine3-v0")
    assert rows_of(dataset) == [0, 1, 2, 3, 4, 5]
    assert dataset.episode_lengths.tolist() == [3, 3]


def test_step_limit_with_next_observations(load):
    dataset = load(5, follow=True, env="BcqLine3-v0")
    assert np.flatnonzero(dataset.transitions.truncated).tolist() == [2, 4]


def test_unknown_edges_are_refused_unless_successors_are_stored(load):
    with pytest.raises(DataError, match="episodes cannot be separated.*; set dataset.env"):
        load(5)
    assert np.flatnonzero(load(5, follow=True).transitions.truncated).tolist() == [4]


def test_flags_as_numbers_and_rewards_as_a_column(load):
    plain = load(4, terminals=[3], timeouts=[1])
    other = load(
        4,
        flags={"terminals": np.array([[0.0], [0.0], [0.0], [1.0]]), "timeouts": [0, 1, 0, 0]},
        rewards=np.arange(4.0)[:, None],
    )
    assert other.content_hash == plain.content_hash


def test_the_environment_gives_spaces_and_scores(load, tmp_path):
    dataset = load(3, timeouts=[])
    assert dataset.id == "toy-v2"
    assert dataset.action_space == LineEnv.action_space
    assert dataset.env_spec.id == "BcqLine-v0"
    assert dataset.reference_scores is None
    assert dataset.make_env().observation_space.shape == (1,)


def test_the_environment_is_guessed_from_the_name(tmp_path):
    path = tmp_path / "hopper_medium-v2.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((4, 11)), np.zeros((4, 3))
        file["rewards"], file["terminals"] = np.ones(4), np.zeros(4, bool)
    dataset = load_d4rl_hdf5(str(path))
    assert dataset.env_spec.id == "Hopper-v5"
    assert dataset.reference_scores == (-20.272305, 3234.3)
    assert dataset.normalized_score(3234.3) == pytest.approx(100)
    assert len(dataset.transitions) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "has no rewards; a D4RL file has observations, actions"),
        ({"rewards": np.zeros(4)}, "lengths differ .*rewards 4.* must be equal"),
        ({"observations": np.zeros(5)}, r"observations has shape \(5,\)"),
        ({"observations": np.zeros((5, 2))}, "observations has 2 numbers a step, its space has 1"),
        ({"next_observations": np.zeros((5, 2))}, "next_observations has 2 numbers a step"),
        ({"actions": np.full((5, 1), 2.0)}, r"act\[0\] is 2 at episode 0, step 0"),
        ({"actions": np.zeros((5, 2))}, "act has 2 numbers a step"),
        ({"rewards": np.array([0, 0, 0, np.nan, 0])}, "rew is nan at episode 1, step 0"),
        ({"rewards": np.array([0, 0, np.inf, 0, 0])}, "rew is inf at episode 0, step 2"),  # dropped
        ({"observations": 5.0}, r"observations has shape \(\); it must be \(steps, size\)"),
        ({"actions": h5py.Empty("f")}, r"actions is not an array; it must be \(steps, size\)"),
        ({"rewards": np.zeros((5, 2))}, r"rewards has shape \(5, 2\); it must be .*steps, 1"),
        ({"rewards": np.zeros(5, complex)}, "rewards holds values of type complex128; real"),
        ({"observations": np.full((5, 1), b"1.5")}, r"observations holds values of type \|S3"),
        ({"flags": {"terminals": [0, 0, np.nan, 0, 1]}}, "terminals is nan at row 2; it must be"),
        ({"flags": {"terminals": [0, 2.5, 0, 0, 1]}}, "terminals is 2.5 at row 1; it must be"),
        ({"flags": {"timeouts": [b"0"] * 5}}, "timeouts holds values of type"),
    ],
)
def test_bad_arrays_are_named(load, changes, message):
    with pytest.raises(DataError, match=f"'toy-v2': .*{message}"):
        load(5, terminals=[4], timeouts=[2], **({"follow": False} | changes))


def test_a_folder_in_place_of_an_array(load, tmp_path):
    load(3, timeouts=[])
    with h5py.File(tmp_path / "toy-v2.hdf5", "r+") as file:
        del file["actions"]
        file.create_group("actions")
    with pytest.raises(DataError, match="actions is not an array"):
        load_d4rl_hdf5(str(tmp_path / "toy-v2.hdf5"), env="BcqLine-v0")


def test_observations_outside_the_space_of_the_environment(load):
    message = r"obs\[0\] is 30 at episode 0, step 3; .* \[-1, 20\]; .* set dataset.env"
    with pytest.raises(DataError, match=message):
        load(5, terminals=[4], env="BcqShort-v0")


def test_the_place_of_a_fault_counts_recorded_steps(load):
    # Row 2 is dropped, yet row 4 is the second step of its episode.
    with pytest.raises(DataError, match="rew is nan at episode 1, step 1"):
        load(6, terminals=[5], timeouts=[2], rewards=np.array([0, 0, 0, 0, np.nan, 0]))


def test_empty_files_are_refused(load):
    with pytest.raises(DataError, match="holds no transitions"):
        load(0, timeouts=[])
    with pytest.raises(DataError, match="holds no transitions"):
        load(1, timeouts=[])


def test_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load_d4rl_hdf5(str(tmp_path / "gone.hdf5"), env="BcqLine-v0")
    with pytest.raises(DataError, match="there is no file '~no.user/gone.hdf5'"):
        load_d4rl_hdf5("~no.user/gone.hdf5", env="BcqLine-v0")
    path = tmp_path / "hopper.hdf5"
    path.write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="hopper.hdf5 cannot be read"):
        load_d4rl_hdf5(str(path))


def test_an_unknown_name_asks_for_the_environment(tmp_path):
    path = tmp_path / "data.hdf5"
    path.touch()
    with pytest.raises(DataError, match="set dataset.env to a Gymnasium id"):
        load_d4rl_hdf5(str(path))
    with pytest.raises(DataError, match="'Nowhere-v0' is not registered"):
        load_d4rl_hdf5(str(path), env="Nowhere-v0")


@pytest.mark.parametrize("bounds", [[-1, 2], [[-1, 2]]])
def test_action_bounds_stand_in_for_an_environment(load, bounds):
    known = load(5, terminals=[4], timeouts=[2])
    dataset = load(5, terminals=[4], timeouts=[2], env=None, options={"action_bounds": bounds})
    assert dataset.content_hash == known.content_hash
    assert dataset.action_space == Box(-1, 2, (1,), np.float32)
    assert dataset.observation_space.shape == (1,)
    with pytest.raises(DataError, match="names no environment; .* trainer.eval_episodes=0"):
        dataset.make_env()


@pytest.mark.parametrize("bounds", [[1], [1, -1], [[-1, 1], [-1, 1]], ["a", 1], [0, np.inf]])
def test_bounds_that_are_none_are_refused(load, bounds):
    with pytest.raises(DataError, match=r"dataset.action_bounds=.*: must be \[low, high\]"):
        load(5, follow=True, env=None, options={"action_bounds": bounds})


def test_unknown_episode_ends_are_refused_with_action_bounds_too(load):
    with pytest.raises(DataError, match="episodes cannot be separated"):
        load(5, env=None, options={"action_bounds": [-1, 1]})


def test_actions_beyond_their_bounds_are_clipped_where_asked_for(load):
    beyond = np.linspace(-3, 3, 5)[:, None]
    with pytest.raises(DataError, match="or clip them: dataset.clip_actions=true$"):
        load(5, follow=True, actions=beyond)
    clip = {"clip_actions": True}
    dataset = load(5, follow=True, actions=beyond, options=clip)
    assert dataset.transitions.act[:, 0].tolist() == [-1, -1, 0, 1, 1]
    assert dataset.transitions.act.dtype == np.float32
    with pytest.raises(DataError, match=r"act\[0\] is -3"):  # not what the cache has of it
        load(5, follow=True, actions=beyond)
    for wrong in ({"actions": np.full((5, 1), np.inf)}, {"actions": np.zeros((5, 2))}):
        with pytest.raises(DataError, match="act is inf|act has 2 numbers"):
            load(5, follow=True, options=clip, **wrong)


def test_a_file_of_no_known_environment_is_trained_on_by_the_command(load, tmp_path):
    load(40, terminals=[39], timeouts=[])
    options = ("dataset=d4rl_hdf5", "dataset.path=toy-v2.hdf5", "dataset.action_bounds=[[-2,2]]")
    done = forked(*options, *NO_EVALUATION, "name=r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = forked(*options, *NO_EVALUATION, "name=r", cwd=tmp_path)
    assert "is complete" in again.stdout + again.stderr
    refused = forked(*options[:2], *NO_EVALUATION, "name=s", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "or dataset.action_bounds to train without one" in refused.stderr


def test_a_reward_that_float32_makes_stand_still_is_noted(load):
    rewards = 1e9 + np.array([0, 1, 2, 1e6, 1e6 + 1])
    noted = load(5, terminals=[2, 4], rewards=rewards, follow=True)
    (note,) = noted.notes
    assert noted.facts()["notes"] == [note]
    assert note.startswith("rew: float32 cannot represent 100% of its changes from one step to")
    assert load(5, terminals=[4], rewards=rewards, follow=True).notes == ()


def test_the_cache_knows_the_step_limit(load, tmp_path):
    assert len(load(6, terminals=[5], env="BcqLine3-v0").transitions) == 5
    gym.registry["BcqLine3-v0"].max_episode_steps = 2
    again = load_d4rl_hdf5(str(tmp_path / "toy-v2.hdf5"), env="BcqLine3-v0")
    assert len(again.transitions) == 4


def test_the_cache_knows_the_spaces_of_an_environment_that_is_not_gymnasiums(
    load, tmp_path, monkeypatch
):
    before = load(9, env="BcqLine3-v0")
    path, wider = str(tmp_path / "toy-v2.hdf5"), Box(-3.0, 3.0, (1,), np.float32)
    assert before.action_space == LineEnv.action_space
    monkeypatch.setattr(LineEnv, "action_space", wider)
    assert load_d4rl_hdf5(path, env="BcqLine3-v0").action_space == wider


def test_a_damaged_file_and_a_link_to_nowhere_are_refused(load, tmp_path):
    load(6, terminals=[5], env="BcqLine3-v0")
    (path,) = tmp_path.glob("*.hdf5")
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):  # a byte here, a byte there
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(DataError):
            load_d4rl_hdf5(str(path), env="BcqLine3-v0", use_cache=False)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["actions"]
        file["actions"] = h5py.SoftLink("/nowhere")
    with pytest.raises(DataError, match="data set"):
        load_d4rl_hdf5(str(path), env="BcqLine3-v0", use_cache=False)


def test_a_refused_file_is_one_line_of_the_command(tmp_path):
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["observations"], file["actions"] = 5.0, np.zeros((3, 1))
        file["rewards"], file["terminals"] = np.zeros(3), np.zeros(3, bool)
    options = ("dataset=d4rl_hdf5", "dataset.path=flat.hdf5", "dataset.env=Pendulum-v1")
    done = forked(*options, "logger=none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: data set 'flat': observations has shape (); it must be (steps, size)"
    )


def test_the_experiment_that_makes_d4rls_row_runs_on_a_file_of_that_format(tmp_path):
    rng, n = np.random.default_rng(0), 300
    with h5py.File(tmp_path / "hopper-medium-v0.hdf5", "w") as file:
        file["observations"] = rng.normal(size=(n, 11)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (n, 3)).astype(np.float32)
        file["rewards"] = rng.normal(size=n).astype(np.float32)
        file["terminals"] = np.arange(n) % 50 == 49
        file["timeouts"] = np.zeros(n, bool)
    few = ("trainer.num_steps=20", "trainer.eval_episodes=1", "networks=small", "logger=none")
    done = forked(
        *("experiment=d4rl_bcq", "dataset.path=hopper-medium-v0.hdf5", "name=row", *few),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    summary = RunRecord(tmp_path / "multirun" / "row").summary()
    assert summary["last"]["normalized_score"] is not None
    kept = {key: summary["config"][key] for key in ("algo", "vae")}
    assert (kept["algo"]["lmbda"], kept["vae"]["kl_weight"]) == (0.75, 0.5)
    assert summary["config"]["trainer"]["objective"] == "normalized_score"
