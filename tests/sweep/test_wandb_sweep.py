"""The W&B sweep: its file, the agents' command rendered by W&B itself, and that command run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bcq_exp.cli.schemas import conf_folder
from bcq_exp.errors import UserError
from bcq_exp.wandb_sweep import sweep_spec
from tests.commands import TINY
from tests.forked import forked

VALUES = {
    "algo.lmbda": 0.25,
    "critic_optim.lr": 1e-05,
    "vae.latent_dim": None,
    "actor.hidden_sizes": [16, 16],
    "seed": 3,
    "trainer.normalize_obs": True,
}


def agent_command(spec, values):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    macros = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    parts = []
    for part in create_sweep_command(spec["command"]):
        if part == "${args_no_hyphens}":
            parts += macros["args_no_hyphens"]
        else:
            parts.append(part.replace("${program}", spec["program"]))
    return [part for part in parts if part not in ("${env}", "/usr/bin/env")]


@pytest.mark.slow
def test_what_an_agent_runs_survives_null_lists_and_exponents(tmp_path):
    spec = sweep_spec(conf_folder() / "wandb_sweep.yaml", ["logger.mode=disabled", *TINY])
    command = agent_command(spec, VALUES)
    assert command[:3] == ["python", "-m", "bcq_exp"]
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("multirun/*/summary.json")
    config = json.loads(path.read_text())["config"]
    for key, value in VALUES.items():
        group, _, name = key.partition(".")
        assert (config[group][name] if name else config[group]) == value


def test_the_ready_file_has_only_keys_that_exist(tmp_path):
    done = forked("seed=5", module="bcq_exp.wandb_sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spec = yaml.safe_load(done.stdout)
    assert spec["metric"] == {"name": "last_return_mean", "goal": "maximize"}
    assert "seed=5" in spec["command"]
    first = {
        key: p["values"][0] if "values" in p else p.get("min", p.get("value"))
        for key, p in spec["parameters"].items()
    }
    overrides = [f"{key}={value}" for key, value in first.items()]
    assert forked(*overrides, "--cfg", "job", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algo.lmda=1", "algo.lmda: no such key of BCQ; there are "),
        ("algo.tau=2", "algo.tau=2.0: must be a number in"),
        ("seed", "seed: must be KEY=VALUE"),
        ("seed=0,1", "seed=0,1: must be one value; the sweep's file lists the values of swept"),
        ("entity=a b", "entity=a b: must be the name of a W&B user or team, without spaces"),
    ],
)
def test_a_mistake_in_an_override_of_the_agents_is_one_line(word, message, tmp_path):
    done = forked(word, module="bcq_exp.wandb_sweep", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("values: 3", "file=x.yaml: parameters: algo.tau: values=3: must be a list"),
        ("values:", "file=x.yaml: parameters: algo.tau: values=None: must be a list"),
        ("value: 2026-01-02", "algo.tau=2026-01-02: must be a number"),
        ("values: [0.5, 1, 2]", "algo.tau=2.0: must be a number"),
        ("{min: 0.5, max: 2}", "algo.tau=2.0: must be a number"),
    ],
)
def test_a_mistake_in_the_values_of_a_file_is_named(values, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("x.yaml")
    path.write_text(f"parameters:\n  algo.tau:\n    {values}\n")
    with pytest.raises(UserError) as refused:
        sweep_spec(path, [])
    assert str(refused.value).startswith(message)


def test_a_file_that_is_no_sweep_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"x\.yaml: not a W&B sweep"):
        sweep_spec(tmp_path / "x.yaml", [])
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"x\.yaml: 'utf-8' codec can't decode"):
        sweep_spec(tmp_path / "x.yaml", [])
    done = forked("--file", "missing.yaml", module="bcq_exp.wandb_sweep", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
