"""Hydra's own plugins of these names next to ours: ours are chosen, and their command lines run.

The plugins are not installed into this environment: hydra-optuna-sweeper wants an Optuna that is
older than ours, and we need none of their dependencies.
"""

import os
import subprocess
import sys

import pytest

from bcq_exp.sweep.state import run_states
from tests.commands import TINY, bcq_exp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PLUGINS = (
    "hydra-joblib-launcher==1.2.0",
    "hydra-optuna-sweeper==1.3.0",
    "hydra-ray-launcher==1.2.2",
    "hydra-submitit-launcher==1.2.0",
)
SHORT = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "-m", "name=s")
COMMANDS = {  # as the plugins' documentation writes them
    "joblib": (
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.verbose=1",
        "hydra.launcher.pre_dispatch='2*n_jobs'", "hydra.launcher.batch_size=1", "seed=0,1",
    ),
    "ray": (
        "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.remote.num_cpus=1", "seed=0,1",
    ),
    "submitit": (
        "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5",
        "hydra.launcher.cpus_per_task=1", "hydra.launcher.name=sweep",
        "hydra.launcher.submitit_folder=jobs/%j", "seed=0,1",
    ),
    "optuna": (
        "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=123",
        "hydra.sweeper.direction=maximize", "hydra.sweeper.study_name=mine",
        "hydra.sweeper.storage=sqlite:///mine.db", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2", "algo.lmbda=interval(0,1)", "seed=range(0,3)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """An environment whose Python finds the plugins."""
    place = str(tmp_path_factory.mktemp("plugins"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place]
    done = subprocess.run([*pip, *PLUGINS], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no plugins: {done.stderr.strip().splitlines()[-1]}")
    return {**os.environ, "PYTHONPATH": place}


def test_hydra_finds_them(env, tmp_path):
    done = bcq_exp("--info", "plugins", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for name in ("JoblibLauncher", "RayLauncher", "SlurmLauncher", "OptunaSweeper"):
        assert f"{name}\n" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_line_of_the_plugin_runs_on_ours(name, env, tmp_path):
    done = bcq_exp(*SHORT, *COMMANDS[name], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "2 runs, 2 to train" in done.stdout  # our launcher's words
    states = run_states(tmp_path / "multirun" / "s")
    assert [state.status for state in states] == ["done"] * 2
    assert (tmp_path / "mine.db").exists() == (name == "optuna")
    assert (tmp_path / "jobs").exists() == (name == "submitit")
