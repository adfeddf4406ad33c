"""A run that was stopped and goes on is, to the bit, the run that never stopped."""

import os
import shlex
import shutil
import signal

import pytest

from bcq_exp.errors import RunStopped, UserError
from bcq_exp.training.checkpoint import save
from bcq_exp.training.cohort import train_cohort
from bcq_exp.training.evaluation import Agent
from bcq_exp.training.record import RunRecord
from tests.commands import COMPILED, TINY, compose, episodes_cut_short, fit
from tests.forked import forked
from tests.same import assert_same_rows, assert_same_run, checkpoint
from tests.sweep.test_cohort import jobs_of
from tests.training.signalled import interrupt_at, run_until

pytestmark = pytest.mark.usefixtures("short_episodes")

NORMALIZED = "trainer.normalize_obs=true"
OFF = (*COMPILED, "trainer.log_every=80", "trainer.checkpoint_every=150")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that was never stopped."""
    folder = tmp_path_factory.mktemp("straight") / "r"
    with episodes_cut_short():
        fit(folder, *TINY)
    return folder


def test_after_a_kill(tmp_path):
    """Between compiled steps; the tests below are of steps that are not."""
    folder = tmp_path / "multirun" / "r"
    killed = run_until(190, signal.SIGKILL, *OFF, NORMALIZED, "name=r", cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint(folder)["step"] == 150
    assert RunRecord(folder).rows("train")[-1]["step"] == 160  # which going on has to forget
    assert RunRecord(folder).summary()["status"] == "running"
    resumed = forked(*OFF, NORMALIZED, "name=r", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert forked(*OFF, NORMALIZED, "name=straight", cwd=tmp_path).returncode == 0
    assert_same_run(folder, tmp_path / "multirun" / "straight")
    assert RunRecord(folder).summary()["status"] == "completed"


@pytest.mark.slow
def test_after_ctrl_c(tmp_path):
    folder = tmp_path / "multirun" / "r"
    stopped = run_until(190, signal.SIGINT, *OFF, "name=r", "resume=restart", cwd=tmp_path)
    assert stopped.returncode == 130
    assert stopped.stderr.count("\n") == 1
    said, _, resume = stopped.stderr.partition("; to continue: bcq_exp ")
    assert said.endswith("stopped by SIGINT at step 190, checkpoint saved")
    assert "resume=" not in resume  # "restart" would set the run aside
    assert checkpoint(folder)["step"] == 190
    summary = RunRecord(folder).summary()
    assert (summary["status"], summary["step"]) == ("interrupted", 190)
    for command in (shlex.split(resume), [*OFF, "name=straight"]):
        assert forked(*command, cwd=tmp_path).returncode == 0
    assert_same_run(folder, tmp_path / "multirun" / "straight")


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGINT,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGUSR2)),
    ],
)
def test_after_a_signal_between_two_rows_of_the_log(signum, tmp_path, monkeypatch):
    cadence = ("trainer.log_every=17", "trainer.num_steps=45")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 30, signum)  # an evaluation's step, between two rows of the log
        with pytest.raises(RunStopped, match=f"by {signum.name} at step 30") as caught:
            fit(tmp_path / "r", *TINY, *cadence)
    assert caught.value.status == 128 + signum
    saved = checkpoint(tmp_path / "r")
    assert (saved["step"], len(saved["window"])) == (30, 13)  # not yet averaged
    assert [row["step"] for row in RunRecord(tmp_path / "r").rows("train")] == [17]
    fit(tmp_path / "r", *TINY, *cadence)
    fit(tmp_path / "straight", *TINY, *cadence)
    assert_same_run(tmp_path / "r", tmp_path / "straight")


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 20, times=2)
    with pytest.raises(RunStopped, match="SIGINT at step 20, checkpoint saved"):
        fit(tmp_path / "r", *TINY)
    assert checkpoint(tmp_path / "r")["step"] == 20


class Killed(BaseException):
    """As a kill, it is caught by nobody."""


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def at_step_of_an_environment(monkeypatch, number, act):
    """Act at a step of the environments, counted from 1; the list of all steps."""
    steps, acts = [], Agent.act

    def counted(agent, *args):
        steps.append(len(steps))
        if len(steps) == number:
            act()
        return acts(agent, *args)

    monkeypatch.setattr(Agent, "act", counted)
    return steps


@pytest.mark.parametrize(("act", "ended"), [(kill, Killed), (terminate, RunStopped)])
@pytest.mark.parametrize("number", [10, 25])  # in the first evaluation, and in the last
def test_within_an_evaluation(number, act, ended, straight, tmp_path, monkeypatch):
    """A kill loses nothing that was trained; a signal does not wait for the episodes' end."""
    with monkeypatch.context() as patch:
        steps = at_step_of_an_environment(patch, number, act)
        with pytest.raises(ended):
            fit(tmp_path / "r", *TINY)
    assert len(steps) == number
    step = 30 if number < 20 else 60
    assert checkpoint(tmp_path / "r")["step"] == step
    assert [row["step"] for row in RunRecord(tmp_path / "r").rows("eval")] == [30][: step // 60]
    fit(tmp_path / "r", *TINY)
    assert_same_run(tmp_path / "r", straight)
    fit(tmp_path / "r", *TINY, "trainer.num_steps=70")  # the row of step 60 is kept
    assert [row["step"] for row in RunRecord(tmp_path / "r").rows("eval")] == [30, 60, 70]


def test_between_an_evaluations_files(straight, tmp_path, monkeypatch):
    """Its episodes are written, its row is not."""
    with monkeypatch.context() as patch:
        append = RunRecord.append
        patch.setattr(
            RunRecord,
            "append",
            lambda record, table, row: kill() if table == "eval" else append(record, table, row),
        )
        with pytest.raises(Killed):
            fit(tmp_path / "r", *TINY)
    assert RunRecord(tmp_path / "r").episodes()["step"].tolist() == [30]
    fit(tmp_path / "r", *TINY)
    assert_same_run(tmp_path / "r", straight)


def test_within_the_evaluation_of_several(tmp_path, monkeypatch):
    once = (*TINY, "trainer.num_steps=30")
    with monkeypatch.context() as patch:
        steps = at_step_of_an_environment(patch, 25, terminate)  # in the second's first
        with pytest.raises(RunStopped, match="SIGTERM at step 30"):
            train_cohort(jobs_of(tmp_path / "r", ("seed=0",), ("seed=1",), base=once))
    assert len(steps) < 40, "the handler runs when the main thread is scheduled"
    for name in ("r", "straight"):
        jobs = jobs_of(tmp_path / name, ("seed=0",), ("seed=1",), base=once)
        assert train_cohort(jobs) == [None, None]
    for number in ("0", "1"):
        assert_same_run(tmp_path / "r" / number, tmp_path / "straight" / number)


def test_signals_are_handed_back_afterwards(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt_at(monkeypatch, 10)
    with pytest.raises(RunStopped):
        fit(tmp_path / "r", *TINY)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_n_steps_and_then_n_more_are_2n_steps(tmp_path):
    fit(tmp_path / "r", *TINY, NORMALIZED, "trainer.num_steps=30")
    half = checkpoint(tmp_path / "r")
    fit(tmp_path / "r", *TINY, NORMALIZED)
    fit(tmp_path / "straight", *TINY, NORMALIZED)
    assert half["step"] == 30
    assert half["normalization"] is not None
    assert_same_run(tmp_path / "r", tmp_path / "straight")


@pytest.mark.slow
def test_with_learning_rate_schedules(tmp_path, monkeypatch):
    options = (
        *TINY,
        "actor_optim.schedule=cosine",
        "critic_optim.schedule=linear",
        "optimizer@vae_optim=sgd",
        "vae_optim.schedule=cosine",
    )
    with monkeypatch.context() as patch:
        interrupt_at(patch, 22)
        with pytest.raises(RunStopped):
            fit(tmp_path / "r", *options, "trainer.log_every=11")
    fit(tmp_path / "r", *options, "trainer.log_every=11")
    fit(tmp_path / "straight", *options, "trainer.log_every=11")
    assert_same_run(tmp_path / "r", tmp_path / "straight")


def test_rows_beyond_the_checkpoint_are_forgotten(straight, tmp_path):
    """What a kill leaves behind: an older checkpoint, newer rows and half a line."""
    folder = tmp_path / "r"
    fit(folder, *TINY, "trainer.num_steps=30")
    old = (folder / "checkpoint.pt").read_bytes()
    fit(folder, *TINY)
    (folder / "checkpoint.pt").write_bytes(old)
    summary = RunRecord(folder).summary() | {"status": "running"}
    RunRecord(folder).write_summary(summary)
    with (folder / "train.csv").open("a") as file:
        file.write("70,0.12")
    fit(folder, *TINY)
    assert_same_run(folder, straight)


def test_a_run_killed_before_its_first_checkpoint_starts_clean(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "r")
    for path in (tmp_path / "r").glob("checkpoint*"):
        path.unlink()
    summary = RunRecord(tmp_path / "r").summary() | {"status": "running"}
    RunRecord(tmp_path / "r").write_summary(summary)
    fit(tmp_path / "r", *TINY)
    assert_same_rows(tmp_path / "r", straight)


def test_a_run_killed_before_its_first_evaluation_keeps_its_configuration(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 15)
        with pytest.raises(RunStopped):
            fit(tmp_path / "r", *TINY)
    assert RunRecord(tmp_path / "r").rows("eval") == []
    with pytest.raises(UserError, match="another configuration"):
        fit(tmp_path / "r", *TINY, "algo.lmbda=0.1")


def test_fewer_steps_than_an_interrupted_run_has_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 15)
        with pytest.raises(RunStopped):
            fit(tmp_path / "r", *TINY)
    with pytest.raises(UserError, match="must be at least the 15 steps"):
        fit(tmp_path / "r", *TINY, "trainer.num_steps=12")


def test_the_time_of_steps_before_an_interruption_counts(tmp_path, monkeypatch):
    cadence = ("trainer.log_every=60", "trainer.eval_every=60", "trainer.checkpoint_every=60")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 30)
        with pytest.raises(RunStopped):
            fit(tmp_path / "r", *TINY, *cadence)
    saved, summary = checkpoint(tmp_path / "r"), RunRecord(tmp_path / "r").summary()
    assert summary["wall_time"] == pytest.approx(saved["seconds"], abs=1e-3)
    assert summary["steps_per_second"] == pytest.approx(30 / saved["seconds"], rel=1e-3)
    path = tmp_path / "r" / "checkpoint.pt"
    save(path, {**saved, "seconds": 1000.0})
    fit(tmp_path / "r", *TINY, *cadence)
    (row,) = RunRecord(tmp_path / "r").rows("timing")
    assert 1000 < row["wall_time"] < 1100
    assert row["steps_per_second"] == pytest.approx(60 / row["wall_time"])
    assert RunRecord(tmp_path / "r").summary()["steps_per_second"] == 0.06


@pytest.mark.slow
def test_a_resumed_run_keeps_its_clock(tmp_path):
    fit(tmp_path / "r", *TINY, "trainer.num_steps=30")
    first = RunRecord(tmp_path / "r").rows("timing")
    fit(tmp_path / "r", *TINY)
    rows = RunRecord(tmp_path / "r").rows("timing")
    assert rows[: len(first)] == first
    assert [row["step"] for row in rows] == list(range(10, 61, 10))
    times = [row["wall_time"] for row in rows]
    assert times == sorted(times)
    assert times[0] > 0
    assert compose(*TINY).trainer.num_steps == rows[-1]["step"]
