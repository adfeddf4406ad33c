"""Successive halving: what is decided, that survivors are the grid's runs, kills, mistakes."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from bcq_exp.analysis import load_runs
from bcq_exp.config.naming import RunNaming
from bcq_exp.config.overrides import key_and_value
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.sweep.halving import HalvingSweeper
from bcq_exp.sweep.jobs import SweepJobs, check_evaluated
from bcq_exp.sweep.launcher import CohortLauncher, RunFailed
from bcq_exp.sweep.rungs import compare, rung_sizes, rung_steps
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, command, compose, config_loader, wait_until
from tests.forked import forked

SHORT = (*TINY, "trainer.num_steps=40", "trainer.eval_every=10", "trainer.eval_episodes=1", "-m")
GRID = ("name=s", "algo.tau=0.001,0.01,0.1", "critic_optim.lr=1e-3,1e-2,1e-1", "seed=0,1")
HALVING = (*SHORT, *GRID, "hydra/sweeper=halving", "hydra.sweeper.rungs=[0.25,0.5]")


def launch(*options, cwd, **given):
    done = forked(*options, cwd=cwd, **given)
    assert done.returncode == 0, done.stderr
    return done


def rungs(folder):
    return json.loads((folder / "multirun" / "s" / "halving.json").read_text())["rungs"]


def folder_name(setting):
    """What a setting's folders begin with: its keys without their groups."""
    return re.sub(r"\w+\.(?=\w+=)", "", setting["name"]).replace(" ", ",")


def run_of(folder, setting, seed):
    name = f"{folder_name(setting)},seed={seed}"
    return RunRecord(folder / "multirun" / "s" / name)


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halved")
    (folder / "said").write_text(launch(*HALVING, cwd=folder).stdout)
    return folder


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ((10_000, 2_000, [0.25]), [2_000, 10_000]),
        ((90, 10, [0.1, 0.3]), [10, 30, 90]),
        ((1_000_000, 5_000, [0.25, 0.016]), [15_000, 250_000, 1_000_000]),
        ((100, 30, [0.1, 0.2, 0.3, 0.99]), [30, 90, 100]),  # as many as there are evaluations
    ],
)
def test_rungs_are_at_evaluations(given, steps):
    assert rung_steps(*given) == steps


def test_without_an_early_evaluation_there_is_no_rung():
    with pytest.raises(UserError, match=r"eval_every=100: .* give at most 25"):
        rung_steps(100, 100, [0.5, 0.25])


def test_one_setting_in_eta_continues_and_one_at_least():
    assert rung_sizes(27, 3, 3) == [27, 9, 3]
    assert rung_sizes(5, 3, 4) == [5, 1, 1, 1]


def test_the_best_continue_the_first_of_equal_ones_and_no_failed_one():
    rung = compare(10, {"a": 1.0, "b": None, "c": 3.0, "d": 1.0}, 2)
    assert [(s.name, s.rank, s.goes_on) for s in rung.settings] == [
        ("c", 1, True), ("a", 2, True), ("d", 3, False), ("b", 4, False),
    ]  # fmt: skip
    assert compare(10, {"b": None}, 1).continuing == []


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_finite_number_is_none(odd):
    rung = compare(10, {"odd": odd, "one": 1.0, "two": 2.0}, 1)
    assert [(s.name, s.value, s.goes_on) for s in rung.settings] == [
        ("two", 2.0, True), ("one", 1.0, False), ("odd", None, False),
    ]  # fmt: skip


class Launched(CohortLauncher):
    """A launcher whose runs return 100 times their tau and their seed; one run fails."""

    def __init__(self, failing):
        super().__init__("auto")
        self.failing, self.calls = failing, []

    def launch(self, jobs, initial_job_idx, until=None, later=0.0):
        self.calls.append((until, len(jobs), later))
        return [self._result(job) for job in jobs]

    def _result(self, job):
        if set(self.failing) <= set(job):
            stopped = RunStopped("a loss is not finite", 1)
            failed = JobReturn(overrides=job, status=JobStatus.FAILED)
            failed.return_value = RunFailed("a loss is not finite", stopped)
            return failed
        given = dict(map(key_and_value, job))
        result = JobReturn(overrides=job, status=JobStatus.COMPLETED)
        result.return_value = 100 * float(given["algo.tau"]) + float(given["seed"])
        return result


def test_a_rung_knows_the_work_after_it_and_a_setting_with_one_failed_run_stops(tmp_path, caplog):
    subdir = RunNaming(("algo.tau", "seed")).subdir
    sweeper = HalvingSweeper(2, [0.1, 0.3], None)
    sweeper.config = compose(
        "trainer.num_steps=90",
        "trainer.eval_every=10",
        f"hydra.sweep.dir='{tmp_path}'",
        f"hydra.sweep.subdir='{subdir}'",
        with_hydra=True,
    )
    sweeper.launcher = Launched(["algo.tau=0.4", "seed=1"])
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    with caplog.at_level(logging.INFO), pytest.raises(RunStopped, match="a loss is not finite"):
        sweeper.sweep(["algo.tau=0.1,0.2,0.3,0.4", "seed=0,1"])
    # 8, 4 and 2 runs train 10, 20 and 60 steps more
    assert sweeper.launcher.calls == [(10, 8, 200 / 80), (30, 4, 120 / 80), (90, 2, 0.0)]
    first, second, last = json.loads((tmp_path / "halving.json").read_text())["rungs"]
    assert [(s["name"], s["value"], s["goes_on"]) for s in first["settings"]] == [
        ("algo.tau=0.3", 30.5, True), ("algo.tau=0.2", 20.5, True), ("algo.tau=0.1", 10.5, False),
        ("algo.tau=0.4", None, False),
    ]  # fmt: skip
    assert [s["goes_on"] for s in second["settings"]] == [True, False]
    assert [s["name"] for s in last["settings"]] == ["algo.tau=0.3"]
    table = [line.split()[:2] for line in caplog.messages if line.startswith("  ")]
    assert table == [["tau", "step"], ["0.3", "90"], ["0.2", "30"], ["0.4", "10"], ["0.1", "10"]]


def test_a_third_of_the_settings_continues_by_the_mean_of_their_seeds(halved):
    first, second, last = rungs(halved)
    assert [(rung["step"], len(rung["settings"])) for rung in (first, second, last)] == [
        (10, 9), (20, 3), (40, 1),
    ]  # fmt: skip
    for rung, after in ((first, second), (second, last)):
        best = sorted(rung["settings"], key=lambda s: -s["value"])[: len(after["settings"])]
        assert {s["name"] for s in best} == {s["name"] for s in after["settings"]}
    for rung in (first, second, last):
        for setting in rung["settings"]:
            rows = [row for seed in (0, 1) for row in run_of(halved, setting, seed).rows("eval")]
            returns = [row["return_mean"] for row in rows if row["step"] == rung["step"]]
            assert np.mean(returns) == pytest.approx(setting["value"])


@pytest.mark.slow
def test_a_run_trained_in_rungs_is_the_grids(halved, tmp_path):
    launch(*SHORT, *GRID, cwd=tmp_path)
    ours, grid = (load_runs(place / "multirun" / "s") for place in (halved, tmp_path))
    assert sorted(ours.runs["step"]) == [10] * 12 + [20] * 4 + [40] * 2
    assert list(ours.runs["name"]) == list(grid.runs["name"])
    for table in ("evaluations", "training"):
        both = getattr(ours, table).merge(getattr(grid, table), on=["run", "step"])
        assert len(both) == len(getattr(ours, table))
        for name in ("return_mean",) if table == "evaluations" else ("critic1_loss", "vae_loss"):
            np.testing.assert_allclose(both[f"{name}_x"], both[f"{name}_y"], rtol=1e-3)


def test_status_and_report_show_which_runs_were_stopped(halved):
    states = {state.name: state for state in run_states(halved / "multirun" / "s")}
    assert sorted(state.status for state in states.values()) == ["done"] * 2 + ["stopped"] * 16
    first, second, _ = rungs(halved)
    for rung in (first, second):
        for setting in rung["settings"]:
            if not setting["goes_on"]:
                name = folder_name(setting) + ",seed=1"
                place = (
                    f"{setting['rank']} of {len(rung['settings'])} settings at step {rung['step']}"
                )
                assert states[name].reason == f"{place}: mean {setting['value']:.1f}"
                assert states[name].step == rung["step"]
    assert any(
        "16 runs were stopped early, at steps 10 and 20" in note
        for note in load_runs(halved / "multirun" / "s").notes
    )


def test_runs_that_are_stopped_early_do_not_count_as_ended(halved):
    said = (halved / "said").read_text()
    words = re.findall(r"^\d+ of \d+ runs (ended|trained to step \d+)", said, re.M)
    assert list(dict.fromkeys(words)) == ["trained to step 10", "trained to step 20", "ended"]


def test_the_same_command_again_trains_nothing(halved, tmp_path):
    shutil.copytree(halved / "multirun", tmp_path / "multirun")
    said = launch(*HALVING, cwd=tmp_path).stdout
    assert "18 runs, 18 trained so far, 0 to train to step 10" in said
    assert "2 runs, 2 complete, 0 to train to step 40" in said
    assert said.count(" 0 to train") == 3 and "best of 9 settings at step 40" in said
    assert said.splitlines()[-1].startswith("report: bcq_exp compare multirun/s writes")
    assert rungs(tmp_path) == rungs(halved)


@pytest.mark.slow
def test_more_values_are_compared_with_all(halved, tmp_path):
    shutil.copytree(halved / "multirun", tmp_path / "multirun")
    more = ["algo.tau=0.001,0.01,0.1,0.5,0.6,0.7" if "tau" in o else o for o in HALVING]
    said = launch(*more, cwd=tmp_path).stdout
    assert "36 runs, 18 trained so far, 18 to train to step 10" in said
    assert [len(rung["settings"]) for rung in rungs(tmp_path)] == [18, 6, 2]


@pytest.mark.slow
def test_a_killed_launch_resumes_to_the_same_decisions(halved, tmp_path):
    process = subprocess.Popen(command(*HALVING), cwd=tmp_path, start_new_session=True)
    folder = tmp_path / "multirun" / "s"
    wait_until((folder / "halving.json").exists, process)  # the first rung is decided
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    said = launch(*HALVING, cwd=tmp_path).stdout
    assert "18 runs, 18 trained so far, 0 to train to step 10" in said
    decided = [
        [[(s["name"], s["goes_on"]) for s in rung["settings"]] for rung in rungs(place)]
        for place in (tmp_path, halved)
    ]
    assert decided[0] == decided[1]


@pytest.mark.slow
def test_a_setting_whose_run_fails_stops_and_the_others_continue(tmp_path):
    options = ["critic_optim.lr=1e-3,1e30" if "critic" in o else o for o in HALVING]
    done = forked(*options, cwd=tmp_path)
    assert done.returncode == 1
    assert "a loss is not finite at step" in done.stderr and "Traceback" not in done.stderr
    first, *_, last = rungs(tmp_path)
    failed = [s for s in first["settings"] if s["name"].endswith("lr=1e+30")]
    assert [(s["value"], s["goes_on"]) for s in failed] == [(None, False)] * 3
    assert [s["goes_on"] for s in last["settings"]] == [True]
    statuses = [state.status for state in run_states(tmp_path / "multirun" / "s")]
    assert sorted(statuses) == ["done"] * 2 + ["failed"] * 6 + ["stopped"] * 4


def test_the_plan_shows_the_rungs_and_writes_nothing(tmp_path):
    said = launch(*HALVING, "--plan", cwd=tmp_path).stdout
    for line in ("9 of 9 settings to step 10", "3 of 9 settings to step 20", "1 of 9 settings"):
        assert line in said
    assert "39% of the steps of a full grid" in said and "18 runs, 18 to train to step 10" in said
    assert list(tmp_path.iterdir()) == []


def test_rungs_follow_the_steps_that_the_sweeps_file_fixes(tmp_path):
    file = tmp_path / "sweep" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nhydra: {sweeper: {params: {trainer.num_steps: 80}}}\n")
    given = [option for option in HALVING if not option.startswith("trainer.num_steps=")]
    said = launch(*given, "--config-dir", str(tmp_path), "sweep=mine", "--plan", cwd=tmp_path)
    for line in ("9 of 9 settings to step 20", "3 of 9 settings to step 40", "1 of 9 settings"):
        assert line in said.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("trainer.eval_every=40",), "trainer.eval_every=40: with trainer.num_steps=40"),
        (("trainer.num_steps=40,80",), "trainer.num_steps: cannot be swept with"),
        (("trainer.objective=return_mean,fqe",), "give one value of trainer.objective"),
        (("hydra/launcher=basic",), "cannot be combined with hydra/launcher=basic"),
        (("hydra.sweeper.eta=1",), "hydra.sweeper.eta=1: must be an integer at least 2"),
        (("hydra.sweeper.rungs=[]",), "hydra.sweeper.rungs=[]: must be a list of numbers"),
        (("hydra.sweeper.rungs=[0.5,1.5]",), "hydra.sweeper.rungs=[0.5, 1.5]: must be a list"),
        (("algo.tau=0.1", "critic_optim.lr=1e-3"), "needs several settings to compare"),
        (("algo.tau=0.1", "critic_optim.lr=1e-3", "seed=0"), "needs several settings to compare"),
        (("hydra.sweep.subdir=x${hydra.job.num}",), "hydra.sweep.subdir="),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(options, said, tmp_path):
    done = forked(*HALVING, *options, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("eval_every", "num_steps"), [(7, 90), (10, 20)])
def test_settings_that_are_not_evaluated_at_a_rung_are_refused(eval_every, num_steps):
    given = f"trainer.eval_every={eval_every}", f"trainer.num_steps={num_steps}"
    with pytest.raises(UserError, match=f"{', '.join(given)}: no evaluation at step 30"):
        check_evaluated(compose(*given).trainer, 30)


def test_at_the_last_rung_runs_are_trained_to_their_end(tmp_path):
    """They are done when they are complete, not when they have the evaluation of that step."""
    loader = config_loader()
    placed = [f"hydra.sweep.dir='{tmp_path}'", "hydra.sweep.subdir='x'"]
    jobs = SweepJobs(
        loader, loader.load_configuration("config", [*TINY, *placed], RunMode.MULTIRUN)
    )
    for until, expected in ((30, 30), (60, None)):
        (planned,) = jobs.plan([[*TINY, "seed=0"]], 0, until)
        assert planned.spec.until == expected
