"""A run goes on with the data that it began with, and so do the others of its sweep."""

import json
import shutil

import gymnasium as gym
import h5py
import numpy as np
import pytest

from bcq_exp.data.behaviour import collect, save, swing_up
from bcq_exp.data.datasets import load_minari
from bcq_exp.errors import UserError
from bcq_exp.sweep import state
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_DATA, ANY_TASK, fit, tree
from tests.forked import forked

BRIEF = ("trainer.num_steps=10", "trainer.eval_episodes=0")
OF_MINARI = (*ANY_DATA, "dataset=minari", "dataset.id=my/set-v0", "dataset.download=false")
OF_D4RL = (*ANY_DATA, "dataset=d4rl_hdf5", "dataset.env=Pendulum-v1")


@pytest.fixture
def pendulum_with():
    """Registers Pendulum as ``Mine-v0`` with a step limit and keyword arguments."""

    def register(limit=50, **kwargs):
        gym.registry.pop("Mine-v0", None)
        entry_point = gym.spec("Pendulum-v1").entry_point
        gym.register("Mine-v0", entry_point=entry_point, max_episode_steps=limit, kwargs=kwargs)

    yield register
    del gym.registry["Mine-v0"]


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Records the data set ``my/set-v0`` in place of an older one; returns its content's hash."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def record(seed):
        env = gym.make("Pendulum-v1")
        episodes = collect(env, swing_up, num_steps=600, seed=seed)
        task = (env.observation_space, env.action_space, env.spec)
        how = {"algorithm_name": "test", "description": "a test", "overwrite": True}
        save("my/set-v0", episodes, task, **how)
        return load_minari("my/set-v0", download=False).content_hash

    return record


def write_d4rl(path, seed):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.uniform(-1, 1, (400, 3)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (400, 1)).astype(np.float32)
        file["rewards"] = rng.normal(size=400).astype(np.float32)
        file["terminals"] = np.zeros(400, bool)
        file["timeouts"] = np.arange(400) % 50 == 49


@pytest.mark.usefixtures("short_episodes")
def test_a_run_does_not_resume_on_a_set_that_was_recorded_again(record, tmp_path):
    first = record(seed=0)
    half, whole = "trainer.num_steps=30", "trainer.num_steps=60"
    fit(tmp_path / "r", *OF_MINARI, half)
    shutil.copytree(tmp_path / "r", tmp_path / "same")
    second = record(seed=1)
    before = tree(tmp_path / "r")
    with pytest.raises(UserError, match=f"cannot resume .*/r: .*{first[:12]}.*{second[:12]}"):
        fit(tmp_path / "r", *OF_MINARI, whole)
    assert tree(tmp_path / "r") == before
    fit(tmp_path / "r", *OF_MINARI, whole, "resume=restart")
    assert RunRecord(tmp_path / "r").summary()["dataset"]["content_hash"] == second
    record(seed=0)
    fit(tmp_path / "same", *OF_MINARI, whole)
    assert RunRecord(tmp_path / "same").summary()["step"] == 60


def test_a_run_does_not_resume_on_a_file_that_was_replaced(tmp_path):
    path = tmp_path / "buffer.hdf5"
    options = (*OF_D4RL, f"dataset.path={path}", "trainer.normalize_obs=true")
    write_d4rl(path, seed=0)
    fit(tmp_path / "r", *options, "trainer.num_steps=30")
    write_d4rl(path, seed=1)
    with pytest.raises(UserError, match=r"its data set changed \(recorded .*, now .*\)"):
        fit(tmp_path / "r", *options)
    assert RunRecord(tmp_path / "r").summary()["step"] == 30


@pytest.mark.parametrize("launcher", ["vectorized", pytest.param("basic", marks=pytest.mark.slow)])
def test_a_sweep_is_not_extended_on_other_data(launcher, record, tmp_path):
    sweep = ("-m", "name=s", f"hydra/launcher={launcher}", *OF_MINARI, *BRIEF)
    first = record(seed=0)
    assert forked(*sweep, "seed=0", cwd=tmp_path).returncode == 0
    second = record(seed=1)
    # new runs; a complete one and a new one; one that is to go on and a new one; one set aside
    restarted, longer = ("seed=1", "resume=restart"), ("seed=0,1", "trainer.num_steps=240")
    for more in (("seed=1,2",), ("seed=0,1",), longer, restarted):
        done = forked(*sweep, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "multirun/s: its data set changed " in done.stderr
        assert f"(recorded {first[:12]}..., now {second[:12]}...)" in done.stderr
        assert done.stderr.endswith("use a new name= or resume=restart with all of its runs\n")
    assert not list(tmp_path.glob("multirun/s/seed=[12]/train.csv"))
    assert RunRecord(tmp_path / "multirun/s/seed=0").summary()["dataset"]["content_hash"] == first
    elsewhere = forked(*sweep, "name=t", "seed=0,1", cwd=tmp_path)
    assert elsewhere.returncode == 0, elsewhere.stderr


def test_a_sweep_of_nested_folders_is_not_extended_on_other_data(record, tmp_path):
    nested = "hydra.sweep.subdir='data/seed=${seed}'"
    sweep = ("-m", "name=s", nested, *OF_MINARI, *BRIEF)
    record(seed=0)
    assert forked(*sweep, "seed=0", cwd=tmp_path).returncode == 0
    record(seed=1)
    done = forked(*sweep, "seed=1", cwd=tmp_path)
    assert done.returncode == 2
    assert "multirun/s: its data set changed " in done.stderr


def test_a_sweep_is_not_extended_by_a_holdout_on_other_data(tmp_path):
    path = tmp_path / "buffer.hdf5"
    sweep = ("-m", "name=s", *OF_D4RL, *BRIEF, f"dataset.path={path}", "seed=0")
    write_d4rl(path, seed=0)
    assert forked(*sweep, "dataset.holdout=0.5", cwd=tmp_path).returncode == 0
    write_d4rl(path, seed=1)
    done = forked(*sweep, "dataset.holdout=0.5,null", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "multirun/s: its data set changed " in done.stderr
    assert len(list(tmp_path.glob("multirun/s/*/train.csv"))) == 1


@pytest.mark.parametrize("online", [True, False])
def test_a_run_and_its_sweep_do_not_continue_in_a_changed_environment(
    online, tmp_path, pendulum_with
):
    """A run of a sweep, and of the sweep another run."""
    words = ("algo=ddpg", "online=explore", "online.env=Mine-v0", "online.start_steps=20")
    if not online:
        write_d4rl(tmp_path / "buffer.hdf5", seed=0)
        words = (*OF_D4RL[-2:-1], "dataset.env=Mine-v0", f"dataset.path={tmp_path}/buffer.hdf5")
    given = (*ANY_TASK, *words, "trainer.num_steps=30")
    state.expect(tmp_path / "s", ["seed=0", "seed=1"], "")
    pendulum_with(g=10.0)
    fit(tmp_path / "s" / "seed=0", *given)
    for changed, said in (
        ({"g": 1.0}, r"kwargs \({'g': 10.0} -> {'g': 1"),
        ({"limit": 60, "g": 10.0}, r"max_episode_steps \(50 -> 60"),
    ):
        pendulum_with(**changed)
        for seed, num_steps in ((1, 30), (0, 60)):
            with pytest.raises(UserError, match=f"its environment changed: {said}"):
                fit(tmp_path / "s" / f"seed={seed}", *given, f"trainer.num_steps={num_steps}")
    pendulum_with(g=10.0)
    fit(tmp_path / "s" / "seed=1", *given)


def test_a_run_does_not_resume_with_other_reference_scores(record, tmp_path):
    record(seed=0)
    options = (*OF_MINARI, "trainer.eval_episodes=0")
    (path,) = (tmp_path / "minari").rglob("metadata.json")
    for k, least in enumerate([-1500, -1500, -1200]):
        scores = {"ref_min_score": least, "ref_max_score": -100}
        path.write_text(json.dumps(json.loads(path.read_text()) | scores))
        given = (*options, f"trainer.num_steps={30 * (k + 1)}")
        if least == -1500:
            fit(tmp_path / "r", *given)
            continue
        changed = r"reference scores changed \(\[-1500.*\] -> \[-1200"
        with pytest.raises(UserError, match=changed):
            fit(tmp_path / "r", *given)


def test_a_sweep_over_data_sets_is_extended(tmp_path):
    paths = [tmp_path / name / "buffer.hdf5" for name in "abc"]
    for seed, path in enumerate(paths):
        write_d4rl(path, seed)
    sweep = ("-m", "name=s", *OF_D4RL, *BRIEF)
    for some in (paths[:1], paths):
        done = forked(*sweep, f"dataset.path={','.join(map(str, some))}", "seed=0", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    found = tmp_path.glob("multirun/s/*/summary.json")
    hashes = {RunRecord(path.parent).summary()["dataset"]["content_hash"] for path in found}
    assert len(hashes) == 3
