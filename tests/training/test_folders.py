"""Relative paths begin where the command was typed, wherever a run is trained or looked at."""

import os
import shutil
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from bcq_exp.selection.candidates import load_evidence
from bcq_exp.sweep import state
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_DATA, TINY, tree
from tests.forked import forked
from tests.training.test_changed_data import OF_D4RL, write_d4rl

SHORT = ("trainer.num_steps=10", "trainer.eval_every=10")
CHDIR = "hydra.job.chdir=true"


class Here(PendulumEnv):
    """Notes in which folder it is made."""

    def __init__(self):
        super().__init__()
        Path("here").touch()


gym.register("Here-v0", entry_point=Here, max_episode_steps=9)


@pytest.mark.parametrize(
    "launcher", ["vectorized", "basic", pytest.param("joblib", marks=pytest.mark.slow)]
)
def test_runs_of_a_sweep_are_trained_in_their_folders(launcher, tmp_path):
    write_d4rl(tmp_path / "buffer.hdf5", seed=0)
    options = (
        *OF_D4RL,
        *SHORT,
        "dataset.path=buffer.hdf5",
        f"dataset.env={__name__}:Here-v0",
        CHDIR,
    )
    sweep = ("-m", "name=s", f"hydra/launcher={launcher}", *options)
    for seeds in ("0", "0,1"):
        done = forked(*sweep, f"seed={seeds}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for name in ("seed=0", "seed=1"):
        folder = tmp_path / "multirun" / "s" / name
        assert (folder / "here").exists()
        path = RunRecord(folder).summary()["config"]["dataset"]["path"]
        assert path == str(tmp_path / "buffer.hdf5")
    assert not (tmp_path / "here").exists()


def test_runs_that_are_trained_in_their_folders_are_trained_by_themselves(tmp_path):
    given = ("-m", "seed=0,1", "logger=none", CHDIR)
    done = forked(*given, "hydra.launcher.group_size=2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "hydra.launcher.group_size=2: must be 1 or auto with hydra.job.chdir=true" in done.stderr
    done = forked(*given, "--plan", cwd=tmp_path)
    assert "2 runs, 2 to train in 2 groups of 1" in done.stdout, done.stderr


def test_a_relative_path_is_found_by_a_single_run_and_by_select(tmp_path, monkeypatch):
    write_d4rl(tmp_path / "buffer.hdf5", seed=0)
    options = (*OF_D4RL, "dataset.path=buffer.hdf5", CHDIR, "name=r")
    for num_steps in (10, 20):
        done = forked(*options, *SHORT, f"trainer.num_steps={num_steps}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"bcq_exp compare {tmp_path / 'multirun' / 'r'}\n" in done.stdout
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evidence = load_evidence([tmp_path / "multirun" / "r"], trusted=False)
    assert evidence.dataset.id == "buffer"


def test_a_relative_folder_of_data_sets_is_recorded_into_and_read(tmp_path):
    env = {**os.environ, "MINARI_DATASETS_PATH": "data/minari"}
    words = ("id=my/set-v0", "env=Pendulum-v1", "num_steps=450")
    done = forked(*words, module="bcq_exp.collect", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/minari/my/set-v0/data/metadata.json").exists()
    data = ("dataset=minari", "dataset.id=my/set-v0", "dataset.download=false")
    done = forked(*ANY_DATA, *SHORT, *data, CHDIR, "name=r", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    built_in = ("dataset.num_steps=450", CHDIR, "name=q")
    done = forked(*ANY_DATA, *SHORT, *built_in, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("multirun/*/data"))


def test_a_folder_that_is_given_is_resumed_there(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "given" / "seed=0")
    same = (*TINY, "logger=wandb", "resume=true")
    done = forked(*same, "hydra.run.dir='given/seed=0'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is complete; a larger number of steps continues it" in done.stdout
    state.expect(tmp_path / "given", ["seed=0"], "")
    done = forked("-m", *same, "hydra.sweep.dir=given", "seed=0,1", "--plan", cwd=tmp_path)
    assert "2 runs, 1 complete, 1 to train" in done.stdout, done.stderr
    none = forked(*same, "hydra.run.dir=none", cwd=tmp_path)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1), none.stderr
    assert "resume=true: none holds no run" in none.stderr
    latest = forked(*same, cwd=tmp_path)
    assert "multirun/ holds no run with a checkpoint" in latest.stderr


@pytest.mark.parametrize("lost", ["summary.json", "checkpoint*.pt"])
def test_a_run_without_its_summary_or_checkpoint_is_not_continued(lost, trained, tmp_path):
    """Its configuration is unknown, or its steps would be taken again."""
    run = shutil.copytree(trained, tmp_path / "multirun" / "r")
    for path in run.glob(lost):
        path.unlink()
    before = tree(run)
    longer = (*TINY, "name=r", "logger=wandb", "trainer.num_steps=90")
    for more in ((), ("resume=true",), ("algo.gamma=0.5",) if lost == "summary.json" else ()):
        done = forked(*longer, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"multirun/r/{lost.replace('*', '')} is missing" in done.stderr
        assert "resume=restart sets the run aside" in done.stderr
    assert tree(run) == before
    done = forked(*longer, "resume=restart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "multirun" / "r.1") == before
    assert len(RunRecord(run).rows("train")) == 9
