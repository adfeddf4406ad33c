"""``trainer.objective=fqe``: runs, sweeps and searches without an environment."""

import json
import os
import shutil
import warnings
from dataclasses import asdict
from statistics import fmean

import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from minari.data_collector.episode_buffer import EpisodeBuffer
from omegaconf import OmegaConf

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.ranges import FQE
from bcq_exp.sweep.state import run_states
from bcq_exp.training.objective import Objective
from bcq_exp.training.record import RunRecord
from bcq_exp.training.spec import RunSpec
from bcq_exp.training.start import is_trained
from tests.commands import ANY_DATA
from tests.forked import forked
from tests.wandb_reader import read

NO_ENV = (
    *ANY_DATA,
    "dataset=minari",
    "dataset.id=no/env-v0",
    "dataset.holdout=0.2",
    "trainer.eval_episodes=0",
    "trainer.num_steps=10",
    "trainer.log_every=5",
    "trainer.eval_every=5",
    "trainer.objective=fqe",
    "trainer.fqe_steps=20",
)


HALVING = ("hydra/sweeper=halving", "hydra.sweeper.rungs=[0.1,0.3]", "trainer.num_steps=45")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a data set that names no environment."""
    monkeypatch.setitem(os.environ, "MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng = np.random.default_rng(0)
    episodes = [
        EpisodeBuffer(
            observations=rng.standard_normal((21, 3)).astype(np.float32),
            actions=rng.uniform(-1, 1, (20, 1)).astype(np.float32),
            rewards=list(rng.standard_normal(20)),
            terminations=[False] * 20,
            truncations=[False] * 19 + [True],
        )
        for _ in range(20)
    ]
    warnings.simplefilter("ignore", UserWarning)  # undone by pytest: it misses an environment
    minari.create_dataset_from_buffers(
        "no/env-v0",
        buffer=episodes,
        observation_space=Box(-np.inf, np.inf, (3,), np.float32),
        action_space=Box(-1, 1, (1,), np.float32),
        algorithm_name="made up",
        author="tests",
        author_email="tests@example.org",
        code_permalink="none",
        description="made up",
    )
    return tmp_path


def launch(*options, cwd):
    done = forked(*options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def estimates(folder):
    return {
        state.name: RunRecord(folder / state.name).estimates()[-1]["fqe"]
        for state in run_states(folder)
    }


def test_the_value_is_that_of_the_step_asked_for(tmp_path):
    record = RunRecord(tmp_path)
    for step, num_steps, value in ((60, 50, 5.0), (60, 40, 0.6), (90, 40, 0.9)):
        settings = asdict(FQESettings(num_steps=num_steps))
        record.add_estimate({"step": step, "settings": settings, "fqe": value})
        record.append("eval", {"step": step, "return_mean": -step})
    last = {"step": 90, "return_mean": -90}
    summary = {"step": 90, "last": last, "record": record.marks()}
    fqe, evaluated = Objective(FQE, 90, FQESettings(num_steps=40)), Objective("return_mean", 90)
    first = {"step": 60, "return_mean": -60}
    assert Objective("return_mean", 60).row(record, None, summary) == first  # not the last
    with pytest.raises(UserError, match="num_steps=70: the run in .* has taken more"):
        Objective("return_mean", 70).value(record, None, summary)
    for until, estimate, row in (
        *((50, 0.6, None), (60, 0.6, {"step": 60, "return_mean": -60})),
        *((70, 0.9, None), (None, 0.9, last)),
    ):
        assert fqe.value(record, until, summary) == estimate
        assert evaluated.row(record, until, summary) == row
    for found, said in ((fqe.row(record, 91, summary), "no estimate"), ({FQE: None}, "diverged")):
        with pytest.raises(UserError, match=said):
            fqe.number(found, record)


def test_a_search_needs_no_environment(folder):
    pytest.importorskip("optuna")
    search = ("-m", "hydra/sweeper=optuna", "algo.lmbda=interval(0,1)", "name=o", *NO_ENV)
    trials = ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    launch(*search, *trials, cwd=folder)
    sweep = folder / "multirun" / "o"
    found = estimates(sweep)
    assert len(found) == 3 and {state.status for state in run_states(sweep)} == {"done"}
    best = OmegaConf.load(sweep / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(found.values()))
    for name in found:
        assert not (sweep / name / "eval.csv").exists()
        assert RunRecord(sweep / name).summary()["last"] is None


def test_a_grid_is_valued_at_once_and_only_once(folder):
    grid = ("-m", "name=g", "algo.lmbda=0.5,1.0", "seed=0,1", *NO_ENV, "logger=wandb")
    assert "then fitted Q evaluation of 4 policies" in launch(*grid, "--plan", cwd=folder).stdout
    said = launch(*grid, cwd=folder).stdout
    assert said.count("fitted Q evaluation of 4 policies") == 1
    sweep = folder / "multirun" / "g"
    assert not (sweep / "fqe.pt").exists()
    assert "fitted Q" not in launch(*grid, cwd=folder).stdout
    states = run_states(sweep)
    assert len(states) == 4
    for state in states:
        (row,) = RunRecord(sweep / state.name).estimates()
        assert row["step"] == 10 and row["fqe_low"] < row["fqe"] < row["fqe_high"]
        mirrored = [told for run in read(sweep / state.name) for told in run.rows("ope")]
        assert mirrored == [
            pytest.approx({k: v for k, v in row.items() if k != "settings"}, rel=1e-12)
        ]
    of_lmbda: dict[str, list[float]] = {}
    for name, value in estimates(sweep).items():
        of_lmbda.setdefault(name.split(",")[0], []).append(value)
    best, other = sorted((fmean(values) for values in of_lmbda.values()), reverse=True)
    shown = [line.split()[-3] for line in said.splitlines()[-3:-1]]
    assert [float(mean) for mean in shown] == pytest.approx([best, other], abs=0.06)
    shown_status = forked("status", "multirun/g", cwd=folder).stdout
    assert "estimate" in shown_status and "return" not in shown_status
    for state in states:
        assert state.estimate == RunRecord(sweep / state.name).estimates()[-1]["fqe"]
        assert f" {state.estimate:.1f}" in shown_status
    compared = forked("compare", "multirun/g", cwd=folder).stdout.splitlines()
    assert compared[0].strip() == "4 runs, none evaluated: value by fitted Q evaluation"
    rows = [line.split("│") for line in compared if line.startswith("│")]
    means = [float(row[3].split(" ± ")[0]) for row in rows]
    assert means == pytest.approx([best, other], abs=0.06)
    one = sweep / run_states(sweep)[0].name
    assert forked(str(one), module="bcq_exp.wandb_mirror", cwd=folder).returncode == 0
    (anew,) = read(one)
    assert [told["fqe"] for told in anew.rows("ope")] == [estimates(sweep)[one.name]]


def test_a_damaged_checkpoint_is_one_runs_failure(folder):
    grid = ("-m", "name=d", "seed=0,1,2", *NO_ENV)
    launch(*grid, cwd=folder)
    sweep = folder / "multirun" / "d"
    for path in (sweep / "seed=1").glob("*.pt"):
        path.write_bytes(b"none")
    for state in run_states(sweep):
        (sweep / state.name / "estimates.json").unlink()
    (sweep / "seed=2" / "estimates.json").write_text("[")
    done = forked(*grid, cwd=folder)
    assert done.returncode == 1 and "2 of 3 runs failed" in done.stderr
    assert "seed=1: " in done.stderr and "checkpoint" in done.stderr
    assert "estimates.json is damaged" in done.stderr and "delete it, it is written" in done.stderr
    assert len(RunRecord(sweep / "seed=0").estimates()) == 1


def test_a_rung_is_reached_with_a_checkpoint_not_with_the_evaluation(folder):
    launch("-m", "name=h", "algo.lmbda=0.5,1.0", *NO_ENV, *HALVING, cwd=folder)
    sweep = folder / "multirun" / "h"
    (stopped,) = (s.name for s in run_states(sweep) if s.status == "stopped")
    record = RunRecord(sweep / stopped)
    summary = record.summary()
    spec = RunSpec(summary["config"], sweep / stopped, until=summary["step"])
    assert is_trained(spec, summary)
    (sweep / stopped / "estimates.json").unlink()
    assert is_trained(spec, summary)
    killed = {**summary, "status": "running"}
    assert is_trained(spec, killed), "its checkpoint is of that step"
    for path in (sweep / stopped).glob("checkpoint*"):
        path.unlink()
    assert not is_trained(spec, killed)


def test_other_settings_are_another_value(folder):
    run = ("name=r", *NO_ENV)
    launch(*run, cwd=folder)
    record = RunRecord(folder / "multirun" / "r")
    (own,) = record.estimates()
    other = ("--num-steps", "10", "--num-members", "2", "--hidden-sizes", "8")
    for _ in range(2):  # select's is not what a sweep maximizes, however often it is asked
        assert forked("multirun/r", *other, module="bcq_exp.select", cwd=folder).returncode == 0
    assert "fitted Q" not in launch(*run, cwd=folder).stdout
    kept, selected = record.estimates()
    assert kept == own and selected["settings"]["hidden_sizes"] == [8]
    assert "fitted Q" in launch(*run, "trainer.fqe_steps=25", cwd=folder).stdout
    steps = [row["settings"]["num_steps"] for row in record.estimates()]
    assert steps == [20, 10, 25]


@pytest.mark.slow
def test_a_run_alone_has_the_value_that_it_has_in_a_sweep(folder):
    launch("-m", "name=g", "seed=0,1", *NO_ENV, cwd=folder)
    launch("name=alone", "seed=1", *NO_ENV, cwd=folder)
    alone = RunRecord(folder / "multirun" / "alone").estimates()
    assert [row["fqe"] for row in alone] == pytest.approx(
        [estimates(folder / "multirun" / "g")["seed=1"]], rel=0.01
    )


@pytest.mark.slow
def test_halving_by_it_decides_at_every_rung(folder):
    halving = ("-m", "name=s", "critic_optim.lr=1e-3,1e-2,1e-1", *NO_ENV, *HALVING)
    launch(*halving, "algo.tau=0.01,0.1", cwd=folder)
    sweep = folder / "multirun" / "s"
    rungs = json.loads((sweep / "halving.json").read_text())["rungs"]
    assert [(rung["step"], len(rung["settings"])) for rung in rungs] == [(5, 6), (15, 2), (45, 1)]
    winner = rungs[-1]["settings"][0]
    name = winner["name"].replace("critic_optim.", "").replace("algo.", "").replace(" ", ",")
    rows = RunRecord(sweep / name).estimates()
    assert [row["step"] for row in rows] == [5, 15, 45]
    assert rows[-1]["fqe"] == pytest.approx(winner["value"])
    shutil.rmtree(sweep / "fqe.pt", ignore_errors=True)
    again = launch(*halving, "algo.tau=0.01,0.1", cwd=folder)
    assert "fitted Q" not in again.stdout


def test_a_grid_needs_no_objective(folder):
    grid = (*NO_ENV, "trainer.objective=return_mean", "dataset.holdout=null", "name=g", "-m")
    launch(*grid, "seed=0,1", cwd=folder)
    assert [state.status for state in run_states(folder / "multirun" / "g")] == ["done"] * 2
    again = launch(*grid, "seed=0,1", cwd=folder)
    assert "2 complete, 0 to train" in again.stdout
    assert forked("status", "multirun/g", cwd=folder).returncode == 0
    done = forked("compare", "multirun/g", cwd=folder)
    assert done.returncode == 0, done.stderr
    select = "`bcq_exp select multirun/g` estimates values from data"
    assert done.stdout.startswith(f"2 runs, none evaluated; {select}\nreport: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("dataset.holdout=null",), "trainer.objective=fqe: needs held-out episodes; set"),
        (
            ("trainer.objective=return_mean", "-m", "algo.tau=0.1,0.2", *HALVING),
            "trainer.eval_episodes=0: trainer.objective=return_mean needs evaluations",
        ),
        (("dataset.holdout=0.05",), "holds out 1 of the 20 episodes of no/env-v0"),
        (("dataset.holdout=1.0",), "dataset.holdout=1.0: must be a number in (0, 1), or null"),
        (("trainer.eval_episodes=1",), "no/env-v0"),
    ],
)
def test_a_mistake_is_one_line(options, said, folder):
    done = forked(*NO_ENV, "name=r", *options, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


def test_a_strangers_checkpoint_runs_no_code(folder):
    options = ("name=r", *NO_ENV, "trainer.num_steps=20", "trainer.checkpoint_every=20")
    launch(*options, cwd=folder)
    run, written = folder / "multirun" / "r", folder / "written"
    (run / "estimates.json").unlink()
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved["config"]["vae"] = {"_target_": "pathlib.Path.touch", "self": str(written)}
    torch.save(saved, run / "checkpoint.pt")
    for path in run.glob("checkpoint.previous.pt"):
        path.unlink()
    done = forked(*options, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "checkpoint.pt belongs to another configuration" in done.stderr
    assert not written.exists()
