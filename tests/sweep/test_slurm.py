"""Sweeps on a real Slurm cluster here: what clusters do to jobs, and the user's mistakes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bcq_exp.sweep.state import run_states
from bcq_exp.training.folders import LOCK
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, bcq_exp, command, wait_until
from tests.sweep.slurm_cluster import Missing, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

STEPS, SAVED_EVERY = 15_000, 1_500  # a dozen seconds: a cluster takes some to pass a signal on
SWEEP = (
    *("-m", "name=s", "algo.lmbda=0.5,1.0", "seed=0,1", *TINY),
    *(f"trainer.num_steps={STEPS}", f"trainer.checkpoint_every={SAVED_EVERY}"),
    f"trainer.eval_every={STEPS // 2}",
)
NAMES = [f"lmbda={lmbda},seed={seed}" for lmbda in ("0.5", "1.0") for seed in (0, 1)]
ON_SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.num_workers=2",
    "hydra.launcher.cpus_per_task=1",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        with slurm_cluster(tmp_path_factory.mktemp("slurm") / "c") as cluster:
            yield cluster
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables of the sweep as this process alone trains it, in groups of two as well."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = bcq_exp(*SWEEP, "hydra.launcher.group_size=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    return tables(folder)


def tables(cwd):
    records = {name: RunRecord(cwd / "multirun" / "s" / name) for name in NAMES}
    return {name: [r.rows(table) for table in ("train", "eval")] for name, r in records.items()}


class Launched:
    """The sweep's command, under way on the cluster."""

    def __init__(self, cluster, cwd: Path, *more: str) -> None:
        self._folder = cwd / "multirun" / "s"
        self.process = subprocess.Popen(
            command(*SWEEP, *ON_SLURM, *more),
            cwd=cwd,
            env={**cluster.env, **os.environ, "PATH": cluster.env["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def summary(self, name):
        path = self._folder / name / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def in_the_middle(self, names=NAMES):
        """Wait until these runs train and have a checkpoint."""
        trains = lambda name: (  # noqa: E731
            (self._folder / name / "checkpoint.pt").exists()
            and self.summary(name)["status"] == "running"
        )
        wait_until(lambda: all(trains(name) for name in names))

    def is_between_checkpoints(self):
        """Whether the first group's runs have their checkpoints, of one step, for a while."""
        saved = [(self._folder / name / "checkpoint.pt").stat().st_mtime for name in NAMES[:2]]
        return 0.2 < time.time() - max(saved) < 0.8

    def ended(self, status):
        out, err = self.process.communicate(timeout=100)
        assert self.process.returncode == status, out + err
        return out + err


def task_of(cluster, index):
    return next(task for task in cluster.tasks() if task.endswith(f"_{index}"))


def test_a_mistake_is_one_line_before_anything_is_submitted(cluster, tmp_path):
    def refused(*more, cwd=tmp_path):
        done = bcq_exp(*SWEEP, *ON_SLURM, *more, cwd=cwd, env={**os.environ, **cluster.env})
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert {path.name for path in cwd.glob("multirun/s/*")} <= {LOCK}
        assert cluster.tasks() == {}
        return done.stderr

    partition = "hydra.launcher.partition=gpu"
    assert f"{partition}: the cluster has no such partition; there are cpu" in refused(partition)
    assert "8 groups of runs, but a job array of this cluster has at most 6 tasks" in refused(
        "seed=0,1,2,3", "hydra.launcher.num_workers=8"
    )
    assert "Requested node configuration is not available" in refused(
        "hydra.launcher.cpus_per_task=99"
    )
    assert "Unknown argument 'nope'" in refused("+hydra.launcher.nope=1")
    if cluster.unseen is not None:
        assert "workers of the Slurm cluster do not see the sweep's folder" in refused(
            cwd=cluster.unseen
        )


def test_a_killed_worker_resumes_from_its_checkpoint(cluster, undisturbed, tmp_path):
    sweep = Launched(cluster, tmp_path)
    sweep.in_the_middle()
    assert sorted(task.partition("_")[2] for task in cluster.tasks()) == ["0", "1"]
    wait_until(sweep.is_between_checkpoints)
    os.kill(sweep.summary(NAMES[0])["process"]["pid"], signal.SIGKILL)
    said = sweep.ended(0)
    assert "4 to train in 2 groups of 2" in said
    assert said.count("ended without a result (FAILED)") == 1
    assert "submitting it again" in said
    assert tables(tmp_path) == undisturbed


def test_preempted_jobs_save_and_are_started_again(cluster, undisturbed, tmp_path):
    sweep = Launched(cluster, tmp_path)
    sweep.in_the_middle()
    cluster.ask("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 2")
    cluster.ask("scancel", "--signal=USR2", task_of(cluster, 1))  # as ahead of a time limit
    interrupted: dict[str, int] = {}

    def both_were_interrupted():
        for name in NAMES:
            summary = sweep.summary(name)
            if summary["status"] == "interrupted":
                interrupted[name] = summary["step"]
        return len(interrupted) == len(NAMES)

    wait_until(both_were_interrupted)
    assert any(step % SAVED_EVERY for step in interrupted.values()), "at once, not at the last mark"
    said = sweep.ended(0)
    assert "again" not in said  # the queue did it
    assert tables(tmp_path) == undisturbed


def test_cancelled_jobs_are_given_up_until_the_same_command_again(cluster, undisturbed, tmp_path):
    sweep = Launched(cluster, tmp_path)
    sweep.in_the_middle()
    cancelled = task_of(cluster, 0)
    cluster.ask("scancel", cancelled)
    said = sweep.ended(1)
    assert said.count(f"job {cancelled} ended without a result (CANCELLED)") == 2
    states = [state.status for state in run_states(tmp_path / "multirun" / "s")]
    assert sorted(states) == ["done", "done", "interrupted", "interrupted"]
    again = Launched(cluster, tmp_path, "hydra.launcher.num_workers=1")  # one group, as before
    assert "2 complete, 2 to train in 1 group of 2" in again.ended(0)
    assert tables(tmp_path) == undisturbed


def test_jobs_outlive_the_launch_and_the_same_command_waits(cluster, undisturbed, tmp_path):
    sweep = Launched(cluster, tmp_path)
    sweep.in_the_middle()
    sweep.process.kill()
    sweep.process.communicate()
    said = Launched(cluster, tmp_path).ended(0)
    assert "waiting for 2 jobs of an earlier launch; to cancel them: scancel" in said
    assert "4 runs, 4 complete, 0 to train" in said
    ended = {(state.status, state.step) for state in run_states(tmp_path / "multirun" / "s")}
    assert ended == {("done", STEPS)}
    assert tables(tmp_path) == undisturbed
