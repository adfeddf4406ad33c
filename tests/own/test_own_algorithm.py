"""An algorithm of a user's own package: one class, one choice file, --config-dir."""

import json
import os
import shlex
from pathlib import Path

import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.analysis.findings import findings
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_ALGORITHM
from tests.forked import forked

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}


def run(*overrides, cwd):
    return forked(*overrides, "--config-dir", str(HERE / "conf"), cwd=cwd, env=ENVIRONMENT)


@pytest.mark.slow
def test_a_custom_algorithm_is_swept_with_ours_resumed_evaluated_and_compared(tmp_path):
    swept = ("algo=denoising,bc", "seed=0,1", "actor_optim.lr=0.01")
    grid = ("-m", *ANY_ALGORITHM, *swept, "name=s")
    half = run(*grid, "trainer.num_steps=30", cwd=tmp_path)
    assert half.returncode == 0, half.stderr
    assert "4 runs, 4 to train in 2 groups of 2" in half.stdout
    done = run(*grid, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "multirun" / "s"
    record = RunRecord(sweep / "algo=denoising,seed=1")
    rows = record.rows("train")
    assert list(rows[0]) == ["step", "actor_loss", "noise_abs_mean"]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["actor_loss"] < rows[0]["actor_loss"]
    assert 0.7 < rows[0]["noise_abs_mean"] < 0.9  # E|N(0, 1)| = 0.80
    runs = load_runs(sweep)
    assert set(runs.groups()) == {"algo=DenoisingBC", "algo=BC"}
    assert record.summary()["watches"][0]["kind"] == "too noisy"
    assert findings(runs) == []  # 60 steps out of bounds are not long enough
    again = {"cwd": tmp_path, "module": "bcq_exp.evaluate", "env": ENVIRONMENT}
    evaluate = (f"run={record.folder}", "num_episodes=2")
    refused = forked(*evaluate, **again)  # a folder does not vouch for the code it names
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    evaluated = forked(*evaluate, "trust=true", **again)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algo.sigma=-1"], "algo=DenoisingBC: sigma is at least 0, not -1"),
        (["algo.sigma=0.1", "+algo.tau=1"], "unexpected keyword argument 'tau'"),
        (["vae.latent_dim=1"], "vae: no such key of DenoisingBC; there are actor, "),
        (["vae=mlp"], "vae: no such group in this configuration; leave it out, or"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_with_a_custom_algorithm_is_one_line(overrides, said, tmp_path):
    done = run(*ANY_ALGORITHM, "algo=denoising", *overrides, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


def test_the_folder_is_checked_with_a_config_dir_too(tmp_path):
    short = (*ANY_ALGORITHM, "algo=denoising", "trainer.num_steps=10", "name=x")
    assert run(*short, cwd=tmp_path).returncode == 0
    for overrides, said in (
        (["resume=false"], "resume=false: multirun/x holds a run already"),
        (["algo.sigma=0.3"], "algo.sigma (0.1 -> 0.3)"),
    ):
        done = run(*short, *overrides, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr


def test_what_is_recorded_is_a_command_that_finds_it_again(tmp_path):
    short = (*ANY_ALGORITHM, "algo=denoising", "trainer.num_steps=10")
    assert run("--config-name=config", *short, "name=x", cwd=tmp_path).returncode == 0
    sweep = ("-m", *short, "seed=3,4", "name=s")
    for launcher in ("vectorized", "basic"):
        assert run(*sweep, f"hydra/launcher={launcher}", cwd=tmp_path).returncode == 0
    folder = tmp_path / "multirun"
    commands = json.loads((folder / "s" / "sweep.json").read_text())["commands"]
    recorded = RunRecord(folder / "x").summary()["command"]
    alone = RunRecord(folder / "s" / "seed=3").summary()["command"]
    for line, said in (
        (recorded, "x is complete; a larger number of steps continues it"),
        (commands[0], "2 runs, 2 complete, 0 to train"),
        (commands[1], "s/seed=4 is complete; a larger number of steps continues it"),
        (f"{alone} name=alone", "step 10: return"),
    ):
        assert f"--config-dir={HERE / 'conf'}" in line
        done = forked(*shlex.split(line)[2:], cwd=tmp_path, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_a_config_dir_that_is_none_is_one_line(tmp_path):
    done = forked("--config-dir", "nowhere", "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--config-dir nowhere: there is no such folder" in done.stderr
    assert not list(tmp_path.iterdir())
