"""The same name again: goes on, is done, is refused, or is set aside."""

import subprocess
import sys

import psutil
import pytest

from bcq_exp.config.naming import run_name
from bcq_exp.data import task as tasks
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.training.folders import present_status
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, command, fit, spoil_engine, tree, wait_until
from tests.forked import forked
from tests.same import assert_same_rows

SAME = (*TINY, "logger=wandb", "name=trained")


def test_a_completed_run_is_done_at_once(run, tmp_path):
    before = tree(run)
    done = forked(*SAME, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is complete; a larger number of steps continues it" in done.stdout
    after = tree(run)
    for name in ("train.csv", "eval.csv", "eval_returns.npz", "summary.json", "checkpoint.pt"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.lmbda=0.5", r"algo.lmbda \(0.75 -> 0.5\)"),
        ("actor.hidden_sizes=[8]", r"actor.hidden_sizes \(\[64, 64\] -> \[8\]\)"),
        ("optimizer@vae_optim=sgd", "vae_optim._target_"),
        ("trainer.log_every=5", r"trainer.log_every \(10 -> 5\)"),
    ],
)
def test_another_configuration_is_refused_by_the_key(override, message, run):
    before = tree(run)
    with pytest.raises(UserError, match=message) as caught:
        fit(run, *SAME, override)
    assert "holds a run with another configuration" in str(caught.value)
    assert tree(run) == before


def test_another_configuration_is_refused_on_the_command_line(run, tmp_path):
    before = tree(tmp_path)
    done = forked(*SAME, "algo.lmbda=0.5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "algo.lmbda (0.75 -> 0.5)" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "override", ["logger=none", "trainer.device=cpu", "resume=true", "trainer.num_steps=30"]
)
def test_what_does_not_change_the_training_may_change(override, run):
    before = tree(run)
    fit(run, *SAME, override)
    assert tree(run) == before


def test_resume_false_is_refused(run):
    before = tree(run)
    with pytest.raises(UserError, match="resume=false.*holds a run already.*resume=restart"):
        fit(run, *SAME, "resume=false")
    assert tree(run) == before


def test_resume_restart_sets_the_old_run_aside_and_starts_over(run, trained):
    before = tree(run)
    fit(run, *TINY, "resume=restart")
    assert tree(run.with_name("trained.1")) == before
    assert_same_rows(run, trained)
    assert RunRecord(run).summary()["config"]["resume"] == "restart"
    fit(run, *TINY, "resume=restart", "trainer.num_steps=10")
    assert tree(run.with_name("trained.1")) == before
    assert RunRecord(run.with_name("trained.2")).summary()["step"] == 60
    assert RunRecord(run).summary()["step"] == 10


def test_more_steps_are_another_configuration_where_a_schedule_follows_from_them(tmp_path):
    scheduled = (*TINY, "actor_optim.schedule=linear", "trainer.eval_episodes=0")
    fit(tmp_path / "r", *scheduled, "trainer.num_steps=30")
    before = tree(tmp_path / "r")
    message = r"actor_optim.schedule \(linear over 30 steps -> linear over 60 steps\)"
    with pytest.raises(UserError, match=message):
        fit(tmp_path / "r", *scheduled)
    assert tree(tmp_path / "r") == before


def test_a_run_that_is_longer_than_asked_for_is_not_called_complete(run, tmp_path):
    done = forked(*SAME, "trainer.num_steps=20", cwd=tmp_path)
    assert done.returncode == 2
    assert "has taken more steps, and has no evaluation after these" in done.stderr
    assert "is complete" not in done.stdout


def test_a_run_that_crashed_before_its_first_step_leaves_its_name_free(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil_engine(patch, lambda engine: setattr(engine, "advance", lambda num_steps: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "r", *TINY)
    assert RunRecord(tmp_path / "r").summary()["status"] == "failed"
    fit(tmp_path / "r", *TINY, "algo.lmbda=0.5", "resume=false", "trainer.num_steps=30")
    summary = RunRecord(tmp_path / "r").summary()
    assert (summary["status"], summary["failure"], summary["step"]) == ("completed", None, 30)
    with pytest.raises(UserError, match=r"algo.lmbda \(0.5 -> 0.75\)"):
        fit(tmp_path / "r", *TINY)


def test_a_run_that_diverged_before_a_row_was_logged_leaves_its_name_free(tmp_path):
    with pytest.raises(RunStopped, match="a loss is not finite"):
        fit(tmp_path / "r", *TINY, "critic_optim.lr=1e30", "trainer.log_every=1")
    assert RunRecord(tmp_path / "r").summary()["step"] == 1
    fit(tmp_path / "r", *TINY, "trainer.num_steps=15")
    assert RunRecord(tmp_path / "r").summary()["status"] == "completed"


def test_a_run_that_lost_its_files_is_not_taken_for_one_that_recorded_nothing(tmp_path):
    fit(tmp_path / "r", *TINY, "trainer.num_steps=15")
    for path in (tmp_path / "r").glob("checkpoint*.pt"):
        path.unlink()
    (tmp_path / "r" / "train.csv").unlink()
    with pytest.raises(UserError):
        fit(tmp_path / "r", *TINY, "algo.lmbda=0.5", "trainer.num_steps=15")


def test_resume_true_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="resume=true.*holds no run"):
        fit(tmp_path / "none", *TINY, "resume=true")
    assert not (tmp_path / "none").exists()


def test_a_run_that_another_process_trains_is_left_to_it(run, tmp_path):
    code = f"""
import pathlib, time
from bcq_exp.training.folders import hold
with hold(pathlib.Path({str(run)!r})):
    print("held", flush=True)
    time.sleep(100)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    record = RunRecord(run)
    before = record.summary()
    process = {"host": "here", "pid": other.pid}
    try:
        assert other.stdout.readline() == "held\n"
        record.write_summary({**before, "status": "running", "process": process})
        done = forked(*SAME, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"process {other.pid} on here is training this run" in done.stderr
        assert present_status(record.summary(), run) == "running"
        other.kill()
        # not yet waited for, it is a zombie: in the table of processes, but it holds nothing
        wait_until(lambda: present_status(record.summary(), run) != "running")
        assert psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE
        assert present_status(record.summary(), run) == "interrupted"
        assert forked(*SAME, cwd=tmp_path).returncode == 0
    finally:
        other.kill()
        other.wait()


@pytest.mark.slow
def test_of_two_processes_that_start_one_run_one_is_refused(tmp_path):
    arguments = command(*TINY, "name=twice", "trainer.num_steps=2000")
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert sum("is training this run; wait for it" in text for text in said) == 1
    rows = RunRecord(tmp_path / "multirun" / "twice").rows("train")
    assert [row["step"] for row in rows] == list(range(10, 2001, 10))


def test_resume_true_ignores_runs_that_were_set_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("foo.1", "bar.2"):
        (tmp_path / "multirun" / name).mkdir(parents=True)
        (tmp_path / "multirun" / name / "checkpoint.pt").touch()
    assert run_name(None, True) in ("foo.1", "bar.2")
    (tmp_path / "multirun" / "foo").mkdir()
    assert run_name(None, True) == "bar.2"


def test_a_run_that_began_while_data_were_loaded_is_not_continued_by_another(tmp_path, monkeypatch):
    brief = (*TINY, "trainer.num_steps=6", "trainer.eval_episodes=0", "trainer.engine=eager")
    load_task = tasks.load_task

    def load(dataset):
        monkeypatch.undo()
        fit(tmp_path, *brief, "seed=1")
        return load_task(dataset)

    monkeypatch.setattr(tasks, "load_task", load)
    with pytest.raises(UserError, match=r"another configuration: seed \(1 -> 0\)"):
        fit(tmp_path, *brief, "trainer.num_steps=12")
    assert RunRecord(tmp_path).summary()["seed"] == 1
