"""Sweeps as real processes: what they leave, kill -9, resume, failures, every launcher."""

import json
import os
import shutil
import signal
import subprocess

import psutil
import pytest
from hydra.experimental.callback import Callback

from bcq_exp.analysis.run_folders import run_folders
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, bcq_exp, command, wait_until
from tests.forked import forked
from tests.same import checkpoint
from tests.training.signalled import run_until
from tests.wandb_reader import read

GRID = ("-m", "name=s", "algo.lmbda=0.5,1.0", "seed=0,1")
SWEEP = (*GRID, *TINY)
NAMES = [f"lmbda={lmbda},seed={seed}" for lmbda in ("0.5", "1.0") for seed in (0, 1)]


NOTED = f"+hydra.callbacks.noted._target_={__name__}.Noted"


class Noted(Callback):
    """Writes down the jobs that Hydra calls it for."""

    def on_job_start(self, config, **_):
        self._note(f"start {config.hydra.job.num} {config.seed}")

    def on_job_end(self, config, job_return, **_):
        alike = job_return.cfg.seed == config.seed and "hydra" not in job_return.cfg
        number = job_return.hydra_cfg.hydra.job.num
        self._note(f"end {number} {config.seed} {alike} {job_return.return_value < 0}")

    def _note(self, line):
        with open("noted", "a") as file:
            file.write(f"{line}\n")


def summaries(folder):
    return {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/summary.json")
    }


def results(folder):
    """Everything of a sweep that must not depend on how its runs were trained."""
    return {
        name: [RunRecord(folder / name).rows(table) for table in ("train", "eval")]
        for name in NAMES
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished sweep, and what it said."""
    folder = tmp_path_factory.mktemp("sweep")
    done = forked(*SWEEP, "logger=wandb", NOTED, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "multirun" / "s", done


def test_every_run_has_its_folder_and_its_wandb_run(sweep):
    folder, done = sweep
    assert "4 runs, 4 to train in 1 group of 4" in done.stdout
    assert sorted(summaries(folder)) == sorted(NAMES)
    for name in NAMES:
        files = {path.name for path in (folder / name).iterdir()}
        assert files >= {".hydra", "train.csv", "eval.csv", "eval_returns.npz", "summary.json"}
        assert files >= {"checkpoint.pt", "run.log", "wandb", "timing.csv"}
        (run,) = read(folder / name)
        assert run.identity["group"] == "s"
        assert run.identity["name"] == name
        lmbda, seed = name.replace("lmbda=", "").split(",seed=")
        assert run.config["algo"]["lmbda"] == float(lmbda)
        command = summaries(folder)[name]["command"]
        assert f"algo.lmbda={lmbda} seed={seed}" in command


def test_a_sweep_ends_by_naming_its_report(sweep):
    folder, done = sweep
    page = "multirun/s/report/index.html"
    command = "bcq_exp compare multirun/s"
    assert done.stdout.splitlines()[-1] == f"report: {command} writes {page}"
    cwd = folder.parents[1]
    compared = forked("multirun/s", module="bcq_exp.compare", cwd=cwd)
    assert compared.stdout.splitlines()[-1] == f"report: {cwd / page}"
    assert (cwd / page).exists()


def test_evaluations_of_groups_of_one_run_are_shown_too(tmp_path):
    done = forked("-m", "name=two", *TINY, "algo.num_sampled_action=3,6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("num_sampled_action=3", "num_sampled_action=6"):
        (row, *_) = RunRecord(tmp_path / "multirun" / "two" / name).rows("eval")
        assert f"step 30: return {row['return_mean']:.1f} of {name}\n" in done.stdout
    last = RunRecord(tmp_path / "multirun" / "two" / name).rows("eval")[-1]["step"]
    longer = ("algo.num_sampled_action=3,6", f"trainer.num_steps={last + 30}")
    done = forked("-m", "name=two", *TINY, *longer, cwd=tmp_path)
    assert f"step {last + 30}: return" in done.stdout
    assert f"step {last}: return" not in done.stdout  # shown by the first command


def test_a_sweep_of_nested_folders_has_one_state_and_a_command_that_finds_its_runs(tmp_path):
    nested = "hydra.sweep.subdir='${algo.num_sampled_action}/seed=${seed}'"
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10")
    done = forked(*short, "-m", "name=n", "algo.num_sampled_action=3,6", nested, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report, *command, _, page = done.stdout.splitlines()[-1].split()
    assert (report, command[:2]) == ("report:", ["bcq_exp", "compare"])
    compared = forked(*command[1:], cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "2 runs: last " in compared.stdout and (tmp_path / page).exists()
    status = forked("status", "multirun/n", cwd=tmp_path)
    assert [line.split()[:3] for line in status.stdout.splitlines()[2:]] == [
        ["3/seed=0", "done", "10/10"],
        ["6/seed=0", "done", "10/10"],
    ]
    shutil.rmtree(tmp_path / "multirun" / "n" / "6")
    compared = forked(*command[1:], cwd=tmp_path)
    assert "1 of 2 runs of multirun/n has not begun (6/seed=0)" in compared.stdout


def test_runs_in_nested_folders_are_of_their_sweep(tmp_path):
    nested = "hydra.sweep.subdir='${algo.num_sampled_action}/seed=${seed}'"
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10")
    words = (*short, "-m", "name=n", nested, "logger=wandb")
    assert forked(*words, "algo.num_sampled_action=3", cwd=tmp_path).returncode == 0
    more = ("algo.num_sampled_action=3,6", "resume=true")  # of a sweep that exists
    done = forked(*words, *more, cwd=tmp_path)
    assert "2 runs, 1 complete, 1 to train" in done.stdout, done.stderr
    folder = tmp_path / "multirun" / "n"
    (run,) = read(folder / "6" / "seed=0")
    assert run.identity["group"] == "n"
    done = forked(*words, "algo.num_sampled_action=3,6", "resume=restart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / ".set_aside").iterdir())) == 2
    assert len(run_folders(folder)) == 2


def test_a_complete_sweep_is_recognised(sweep):
    folder, _ = sweep
    before = {name: s["updated"] for name, s in summaries(folder).items()}
    done = forked(*SWEEP, NOTED, cwd=folder.parents[1])
    assert done.returncode == 0
    assert "4 runs, 4 complete, 0 to train" in done.stdout
    assert {name: s["updated"] for name, s in summaries(folder).items()} == before


def test_hydras_callbacks_are_called_for_the_jobs_that_are_trained(sweep):
    folder, _ = sweep
    seeds = enumerate([0, 1, 0, 1])
    started = [f"start {number} {seed}" for number, seed in seeds]
    ended = [f"{line.replace('start', 'end')} True True" for line in started]
    noted = (folder.parents[1] / "noted").read_text()  # also after the sweep that was complete
    assert noted.splitlines() == started + ended


@pytest.mark.slow
def test_a_larger_grid_trains_what_is_missing_and_a_changed_one_is_refused(sweep):
    folder, _ = sweep
    done = forked(*SWEEP, "algo.tau=0.1", cwd=folder.parents[1])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another configuration: algo.tau (0.005 -> 0.1)" in done.stderr
    done = forked(*SWEEP, "seed=0,1,2", "resume=false", cwd=folder.parents[1])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = forked(*SWEEP, "algo.lmbda=0.5", "seed=1,2", cwd=folder.parents[1])
    assert done.returncode == 0, done.stderr
    # the last word on a key holds; one swept key only, so these runs are named by it
    assert set(summaries(folder)) == {*NAMES, "seed=1", "seed=2"}


@pytest.mark.slow
def test_restarting_sets_the_old_runs_aside(tmp_path):
    short = (*SWEEP, "trainer.num_steps=10")
    folder = tmp_path / "multirun" / "s"
    for launcher, tau in (("vectorized", 0.005), ("vectorized", 0.1), ("basic", 0.2)):
        options = (f"hydra/launcher={launcher}", f"algo.tau={tau}", "resume=restart")
        done = forked(*short, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {s["config"]["algo"]["tau"] for s in summaries(folder).values()} == {tau}
        assert sorted(summaries(folder)) == sorted(NAMES)
    assert len(summaries(folder / ".set_aside")) == 8
    assert forked(*short, "algo.tau=0.2", "resume=true", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("launcher", ["vectorized", pytest.param("basic", marks=pytest.mark.slow)])
def test_a_killed_sweep_resumes_to_the_same_results(launcher, sweep, tmp_path):
    options = (*SWEEP, f"hydra/launcher={launcher}")
    folder = tmp_path / "multirun" / "s"
    killed = run_until(40, signal.SIGKILL, *options, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    states = {state.name: state.status for state in run_states(folder)}
    assert list(states) == NAMES
    left = ["interrupted"] * 4 if launcher == "vectorized" else ["interrupted", *["missing"] * 3]
    assert list(states.values()) == left
    done = forked(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {state.status for state in run_states(folder)} == {"done"}
    assert not (folder / ".set_aside").exists()
    for name, tables in results(folder).items():
        for table, expected in zip(tables, results(sweep[0])[name], strict=True):
            assert [row["step"] for row in table] == [row["step"] for row in expected]
            for row, other in zip(table, expected, strict=True):
                # float32, and another order of summing in a stack than alone
                assert row == pytest.approx(other, rel=0.05, abs=0.05)


def test_a_signal_ends_a_sweep_of_hydras_own_launcher_too(tmp_path):
    """The basic launcher continues with the next run after a failure, but not after a signal."""
    options = (*SWEEP, "hydra/launcher=basic", "trainer.num_steps=30")
    stopped = run_until(20, signal.SIGTERM, *options, cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (143, 1), stopped.stderr
    assert "stopped by SIGTERM at step 20, checkpoint saved" in stopped.stderr
    states = [(state.status, state.step) for state in run_states(tmp_path / "multirun" / "s")]
    assert states == [("interrupted", 20), *[("missing", 0)] * 3]


def test_failures_for_several_reasons_are_reported_run_by_run(tmp_path):
    options = ("dataset=d4rl_hdf5", "dataset.env=Pendulum-v1", "logger=none", "seed=range(12)")
    done = forked("-m", *options, "dataset.path=a.hdf5,b.hdf5", cwd=tmp_path)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[0] == "24 of 24 runs failed:" and len(said) == 1 + 2 * 11
    lacking = f"data set 'a': there is no file '{tmp_path / 'a.hdf5'}'"
    assert said[1] == f"  seed=0,path=a.hdf5: {lacking}"
    assert said[11] == "  and 2 more for the same reason"


@pytest.mark.slow
def test_failed_runs_are_named_at_the_end_and_tried_again(tmp_path):
    options = ("-m", "name=f", *TINY, "seed=0,1")
    done = forked(*options, "critic_optim.lr=0.001,1e+30", cwd=tmp_path)
    assert done.returncode == 1
    *_, head, first, second = done.stderr.strip().splitlines()
    assert head == "2 of 4 runs failed:"
    assert done.stdout.splitlines()[-1].startswith("report: bcq_exp compare multirun/f ")
    assert first.startswith("  seed=0,lr=1e+30: a loss is not finite at step")
    assert second.startswith("  seed=1,lr=1e+30: a loss is not finite at step")
    states = {s.name: s for s in run_states(tmp_path / "multirun" / "f")}
    assert [s.status for s in states.values()] == ["done", "failed", "done", "failed"]
    again = forked(*options, "critic_optim.lr=0.001,1e+30", cwd=tmp_path)
    assert again.returncode == 1
    assert "4 runs, 2 complete, 2 to train" in again.stdout
    status = forked("multirun/f", module="bcq_exp.status", cwd=tmp_path)
    assert status.returncode == 0
    assert "4 runs: 2 done, 2 failed" in status.stdout
    assert "a loss is not finite at step" in status.stdout


@pytest.mark.slow
def test_ctrl_c_saves_every_run(tmp_path):
    options = (*SWEEP, "trainer.num_steps=100000")
    folder = tmp_path / "multirun" / "s"
    process = subprocess.Popen(command(*options), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (folder / NAMES[3] / "train.csv").exists(), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped by SIGINT at step" in said
    assert "bcq_exp train -m ... name=s" in said
    assert {s["status"] for s in summaries(folder).values()} == {"interrupted"}


WORKERS = {
    "joblib": ("hydra.launcher.n_jobs=2",),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2",),
    "submitit_local": ("hydra.launcher.num_workers=2",),
}


@pytest.mark.parametrize(
    ("launcher", "to", "signum"),
    [
        ("joblib", "launch", signal.SIGTERM),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("joblib", "group", signal.SIGINT),  # as a terminal does
                ("joblib", "worker", signal.SIGTERM),
                ("ray", "launch", signal.SIGTERM),
                ("submitit_local", "launch", signal.SIGTERM),
            )
        ),
    ],
)
def test_a_signal_saves_the_runs_of_every_worker(launcher, to, signum, tmp_path):
    pytest.importorskip(launcher.partition("_")[0])
    workers = (f"hydra/launcher={launcher}", *WORKERS[launcher], "hydra.launcher.group_size=1")
    options = (*SWEEP, *workers, "trainer.num_steps=100000", "trainer.checkpoint_every=100000")
    options += ("trainer.eval_every=100000", "trainer.engine=eager")
    folder = tmp_path / "multirun" / "s"
    process = subprocess.Popen(
        command(*options), cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    first = [folder / name for name in NAMES[:2]]
    wait_until(lambda: all((run / "train.csv").exists() for run in first), process, 120)
    pids = {summary["process"]["pid"] for summary in summaries(folder).values()}
    if to == "group":
        os.killpg(process.pid, signum)
    else:
        os.kill(process.pid if to == "launch" else min(pids), signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, said
    assert said.splitlines()[-1].startswith(f"stopped by {signum.name}")
    assert launcher != "joblib" or "checkpoint saved; to continue: " in said.splitlines()[0]
    assert {state.status for state in run_states(folder)} <= {"interrupted", "missing"}
    for run in first:
        saved = RunRecord(run).summary()["step"]
        assert saved > 0 and checkpoint(run)["step"] == saved
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
def test_joblib_and_submitit_train_a_cohort_a_worker(sweep, tmp_path):
    for launcher in ("joblib", "submitit_local"):
        workers = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
        done = bcq_exp(
            *SWEEP, f"name={launcher}", f"hydra/launcher={launcher}", *workers, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "4 to train in 2 groups of 2" in done.stdout
        folder = tmp_path / "multirun" / launcher
        assert sorted(summaries(folder)) == sorted(NAMES)
        processes = {s["process"]["pid"] for s in summaries(folder).values()}
        assert len(processes) == 2
        again = bcq_exp(
            *SWEEP, f"name={launcher}", f"hydra/launcher={launcher}", *workers, cwd=tmp_path
        )
        assert "4 runs, 4 complete" in again.stdout


@pytest.mark.slow
def test_ray_trains_a_cohort_a_task(tmp_path):
    pytest.importorskip("ray")
    options = (*SWEEP, "hydra/launcher=ray")
    nobody = bcq_exp(*options, "hydra.launcher.ray.init.address=ray://127.0.0.1:9", cwd=tmp_path)
    assert (nobody.returncode, nobody.stderr.count("\n")) == (2, 1)
    assert "init.address=ray://127.0.0.1:9: [Errno 111]" in nobody.stderr
    assert not (tmp_path / "multirun" / "s" / "multirun.yaml").exists()
    done = bcq_exp(*options, "+hydra.launcher.ray.init.num_cpus=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 to train in 2 groups of 2" in done.stdout
    folder = tmp_path / "multirun" / "s"
    assert {s["status"] for s in summaries(folder).values()} == {"completed"}
    assert len({s["process"]["pid"] for s in summaries(folder).values()}) == 2
    again = bcq_exp(*options, cwd=tmp_path)
    assert "4 runs, 4 complete, 0 to train" in again.stdout


def test_a_missing_data_set_is_named(tmp_path):
    missing = ("dataset=minari", "dataset.id=no/such-v0", "dataset.download=false")
    done = forked("-m", "name=m", "seed=0,1", "logger=none", *missing, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data set 'no/such-v0' is not in ")
    assert done.stderr.count("\n") == 1
