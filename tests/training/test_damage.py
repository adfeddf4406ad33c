"""What was lost or changed in a run's files is noticed, and what is left of them goes on."""

import logging
import random
import resource
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bcq_exp.analysis import load_runs
from bcq_exp.errors import CannotWrite, Damaged, UserError
from bcq_exp.sweep.jobs import _planned
from bcq_exp.sweep.state import run_states
from bcq_exp.training import build, checkpoint, restore
from bcq_exp.training.evaluation import Evaluator
from bcq_exp.training.record import TABLES, RunRecord
from tests.commands import TINY, compose, fit, spec_of
from tests.forked import forked
from tests.same import assert_same_rows, assert_same_run, assert_same_state

FILES = [
    "train.csv", "eval.csv", "timing.csv", "summary.json", "eval_returns.npz", "checkpoint.pt",
    "checkpoint.previous.pt",
]  # fmt: skip
LONGER = (*TINY, "trainer.num_steps=70")


@pytest.fixture(scope="module")
def straight(trained, tmp_path_factory):
    """The run of 70 steps that nothing happened to."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("straight") / "trained")
    fit(folder, *LONGER)
    return folder


def everything(folder):
    """All that is read of a run, by the file that has it."""
    record = RunRecord(folder)
    summary = record.summary()
    newest = checkpoint.newest(record)
    found = checkpoint.find_resumable(record)
    return {
        "summary": summary,
        **{table: record.rows(table, summary["record"]) for table in TABLES},
        "episodes": {name: array.tolist() for name, array in record.episodes().items()},
        "newest": newest,
        "to go on": found.content,
    }


def spoilt(content, rng):
    """A file's content with a byte changed, or two, or its end cut off."""
    kind = rng.choice(["byte", "bytes", "cut"])
    place = rng.randrange(len(content))
    if kind == "cut":
        return content[:place]
    size = 1 if kind == "byte" else 2
    changed = bytes(byte ^ rng.randrange(1, 256) for byte in content[place : place + size])
    return content[:place] + changed + content[place + size :]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tries", [12, pytest.param(400, marks=pytest.mark.faults)])
def test_a_changed_byte_or_a_cut_anywhere_is_noticed_or_harmless(
    name, tries, run, caplog, record_property
):
    record_property("tried", (f"flipped and torn bytes, {name}", tries))
    whole, content = everything(run), (run / name).read_bytes()
    before = checkpoint.load(run / "checkpoint.previous.pt")
    rng = random.Random(name)
    noticed = 0
    for _ in range(tries):
        (run / name).write_bytes(spoilt(content, rng))
        caplog.clear()
        try:
            found = everything(run)
        except Damaged as error:
            assert name in str(error) and "\n" not in str(error)
            noticed += 1
            continue
        if said := [r.getMessage() for r in caplog.records]:
            words = "the previous checkpoint, of step 45"
            assert all("checkpoint.pt" in line and words in line for line in said)
            assert_same_state(found.pop("newest"), before)
            assert_same_state(found.pop("to go on"), before)
            noticed += 1
        else:  # the byte was one of no meaning
            assert_same_state(found, whole)
    assert noticed > tries / 2 or name == "checkpoint.previous.pt"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, straight, caplog):
    damaged = (run / "checkpoint.pt").read_bytes()[:-1000]
    (run / "checkpoint.pt").write_bytes(damaged)
    (run / ".checkpoint.pt.4711").write_bytes(b"what a killed process was about to put in place")
    with caplog.at_level(logging.WARNING):
        fit(run, *LONGER)
    assert "checkpoint.pt is damaged" in caplog.text
    assert "using the previous checkpoint, of step 45" in caplog.text
    assert (run / "checkpoint.damaged.pt").read_bytes() == damaged
    assert not (run / ".checkpoint.pt.4711").exists() and (run / ".lock").exists()
    assert_same_run(run, straight)
    assert checkpoint.load(run / "checkpoint.previous.pt")["step"] == 60


def test_a_checkpoint_of_another_run_gives_way_to_the_one_before(run, straight, caplog):
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "config": {**saved["config"], "seed": 5}}, run / "checkpoint.pt")
    with caplog.at_level(logging.WARNING):
        fit(run, *LONGER)
    assert "checkpoint.pt belongs to another run (seed (5 -> " in caplog.text
    assert_same_run(run, straight)


def test_a_checkpoint_of_another_format_is_refused_by_its_number(run):
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "format": saved["format"] + 1}, run / "checkpoint.pt")
    with pytest.raises(Damaged, match=f"not a checkpoint of format {saved['format']}"):
        checkpoint.load(run / "checkpoint.pt")


def test_a_checkpoint_whose_rows_were_lost_gives_way_to_the_one_before(run, straight):
    lines = (run / "train.csv").read_bytes().splitlines(keepends=True)
    (run / "train.csv").write_bytes(b"".join(lines[:-1]))  # the row of step 60
    fit(run, *LONGER)
    assert_same_run(run, straight)


def test_a_run_with_a_damaged_checkpoint_is_evaluated_by_the_one_before(run, tmp_path):
    (run / "checkpoint.pt").write_bytes(b"")
    done = forked(f"run={run}", "num_episodes=1", cwd=tmp_path, module="bcq_exp.evaluate")
    assert done.returncode == 0, done.stderr
    assert "the previous checkpoint, of step 45" in done.stdout + done.stderr
    (run / "checkpoint.previous.pt").write_bytes(b"")
    done = forked(f"run={run}", "num_episodes=1", cwd=tmp_path, module="bcq_exp.evaluate")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "checkpoint.pt is damaged" in done.stderr


@pytest.mark.parametrize("name", ["train.csv", "eval.csv", "timing.csv", "eval_returns.npz"])
def test_a_table_that_is_gone_is_missed(name, run):
    (run / name).unlink()
    with pytest.raises(Damaged, match=rf"{name} is damaged .*; resume=restart sets the run aside"):
        fit(run, *LONGER)
    if name in ("train.csv", "eval.csv"):
        assert any(f"{name} is damaged (missing or empty)" in note for note in load_runs(run).notes)


def test_a_row_changed_or_cut_in_the_middle_is_missed(run):
    content = (run / "train.csv").read_bytes()
    lines = content.splitlines(keepends=True)
    for middle in (b"20,0.1\r\n", lines[2].replace(b".", b".0", 1), b""):
        (run / "train.csv").write_bytes(b"".join([*lines[:2], middle, *lines[3:]]))
        (note,) = [note for note in load_runs(run).notes if "train.csv" in note]
        assert "is damaged" in note and note.endswith("left out")


def test_a_damaged_timing_shows_in_the_status(run):
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    (run / "timing.csv").write_text("step,wall_time,steps_per_second\n10,1.0,1.0\n")
    (state,) = run_states(run.parent)
    assert (state.status, "timing.csv" in state.reason) == ("damaged", True)


def test_rows_after_the_summary_are_read_too(run):
    record = RunRecord(run)
    record.append("train", {name: 70 for name in record.rows("train")[0]})
    assert len(load_runs(run).training) == 7


GARBAGE = {
    "noise": b"\xff\x00\xfe\n",
    "zeros": bytes(50),
    "zeros and a row": bytes(50) + b"\r\n70,1,1\r\n",
    "a letter": b"70,0.x\r\n",
    "another length": b"70\r\n",
    "an earlier step": b"1,1,1,1,1,1,1,1\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_bytes_after_the_last_mark_are_ignored(garbage, run, straight):
    """A loss of power leaves it, in a run that was killed."""
    record = RunRecord(run)
    record.write_summary(record.summary() | {"status": "running"})
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    before = load_runs(run)
    for table in TABLES:
        with (run / f"{table}.csv").open("ab") as file:
            file.write(garbage)
    (state,) = run_states(run.parent)
    assert (state.status, state.step) == ("interrupted", 60)
    found = load_runs(run)
    assert len(found.training) == len(before.training) == 6
    assert len(found.evaluations) == len(before.evaluations) == 2
    fit(run, *LONGER)
    assert_same_run(run, straight)


BEFORE_A_CHECKPOINT = [
    pytest.param(each, id=name, marks=[pytest.mark.slow] * (name != "zeros and a row"))
    for name, each in GARBAGE.items()
]


@pytest.mark.parametrize("garbage", [pytest.param(b"", id="nothing"), *BEFORE_A_CHECKPOINT])
def test_bytes_after_the_last_mark_are_ignored_before_the_first_checkpoint(garbage, run, straight):
    record, rows = RunRecord(run), {}
    for table in ("train", "timing"):
        rows[table] = (run / f"{table}.csv").read_bytes().splitlines(keepends=True)[:3]
    summary = record.summary() | {"status": "running", "step": 0, "last": None, "best": None}
    for path in [*run.glob("*.csv"), *run.glob("checkpoint*"), run / "eval_returns.npz"]:
        path.unlink()
    record.write_summary(summary)
    for table, lines in rows.items():
        (run / f"{table}.csv").write_bytes(b"".join(lines) + garbage)
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    (state,) = run_states(run.parent)
    assert (state.status, state.step) == ("interrupted", 20)
    with pytest.raises(UserError, match="another configuration"):  # it has rows to lose
        fit(run, *LONGER, "algo.lmbda=0.5")
    fit(run, *LONGER)
    assert_same_rows(run, straight)


@pytest.mark.parametrize("table", TABLES)
def test_status_and_launch_agree_on_rows_lost_since_the_checkpoint(table, run, straight):
    """Which the summary has, as it was written after the checkpoint."""
    record = RunRecord(run)
    (run / "checkpoint.pt").unlink()  # that of step 45 is left
    record.write_summary(record.summary() | {"status": "running"})
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    content = (run / f"{table}.csv").read_bytes()
    (run / f"{table}.csv").write_bytes(content[:-3] + b"x\r\n")
    (state,) = run_states(run.parent)
    assert state.status == "interrupted"
    (run / f"{table}.csv").write_bytes(b"x" + content[1:])
    (state,) = run_states(run.parent)
    assert state.status == "damaged" and f"{table}.csv is damaged" in state.reason
    with pytest.raises(Damaged) as refused:
        fit(run, *LONGER)
    assert str(refused.value) == state.reason
    (run / f"{table}.csv").write_bytes(content[:-3] + b"x\r\n")
    fit(run, *LONGER)
    assert_same_run(run, straight)


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
@pytest.mark.parametrize(
    ("cut", "damaged"),
    [
        (["eval_returns.npz"], "eval_returns.npz"),
        (["checkpoint.pt", "checkpoint.previous.pt"], "checkpoint.pt"),
        (["checkpoint.pt"], None),
        (["eval_returns.npz", "checkpoint.pt", "checkpoint.previous.pt"], "checkpoint.pt"),
    ],
)
def test_status_and_launch_agree_on_files_that_are_cut(status, cut, damaged, run):
    record = RunRecord(run)
    record.write_summary(record.summary() | {"status": status})
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    for name in cut:
        (run / name).write_bytes((run / name).read_bytes()[:-100])
    (state,) = run_states(run.parent)
    planned = _planned(0, spec_of(compose(*LONGER), run), [])
    assert state.reason == planned.damage
    if damaged is None:
        assert state.status == {"running": "interrupted"}.get(status, status)
    else:
        assert state.status == "damaged" and f"{damaged} is damaged" in state.reason


def test_rows_that_only_the_checkpoint_marks_are_missed_by_both(run):
    """A killed run's summary is older than its checkpoint."""
    record = RunRecord(run)
    (run / "checkpoint.previous.pt").unlink()
    content = (run / "train.csv").read_bytes()
    old = b"".join(content.splitlines(keepends=True)[:4])
    (run / "train.csv").write_bytes(old)
    record.write_summary(record.summary() | {"status": "running", "step": 30})
    (run / "train.csv").write_bytes(content[:-4] + b"9\r\n")
    (run.parent / "sweep.json").write_text('{"commands": [], "runs": ["trained"]}')
    (state,) = run_states(run.parent)
    assert (state.status, "train.csv is damaged" in state.reason) == ("damaged", True)
    assert state.reason == _planned(0, spec_of(compose(*LONGER), run), []).damage


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_resumes_when_there_is_room(trained, tmp_path):
    """The limit lets tables and summaries be written, and no checkpoint."""
    limits = ((resource.RLIMIT_FSIZE, (trained / "checkpoint.pt").stat().st_size - 1),)
    command = (*TINY, "name=r", "trainer.num_steps=30")
    full = forked(*command, cwd=tmp_path, limits=limits)
    assert (full.returncode, full.stderr.count("\n")) == (1, 1), full.stderr
    assert "cannot write multirun/r/checkpoint.pt: " in full.stderr.replace(f"{tmp_path}/", "")
    folder = tmp_path / "multirun" / "r"
    assert not list(folder.glob(".checkpoint*"))
    assert forked(*command, cwd=tmp_path).returncode == 0
    fit(tmp_path / "straight", *command)
    assert_same_rows(folder, tmp_path / "straight")


@pytest.mark.parametrize("owner, name", [(torch, "load"), (restore, "build_algorithm")])
def test_memory_that_runs_out_is_not_taken_for_damage(owner, name, run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError, match=r"not enough memory \(CUDA.*MiB\); use") as caught:
        restore.load_policy(run)
    assert not isinstance(caught.value, Damaged)


@pytest.mark.usefixtures("short_episodes")
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_disk_that_fills_up_at_the_end_is_like_one_before(status, tmp_path, monkeypatch):
    """The message is that of a full disk within training, and W&B does not wait for more rows."""

    def write_summary(self, summary, write=RunRecord.write_summary):
        if summary["status"] == status:
            raise CannotWrite("cannot write it")
        write(self, summary)

    def fail(self, agent, is_stopped):
        raise ZeroDivisionError

    ended = []
    tracker = SimpleNamespace(
        id=None, log=lambda *_: None, finish=ended.append, wait=lambda _: True
    )
    monkeypatch.setattr(build, "build_tracker", lambda *_: tracker)
    monkeypatch.setattr(RunRecord, "write_summary", write_summary)
    if status == "failed":
        monkeypatch.setattr(Evaluator, "evaluate", fail)
    step = {"completed": 60, "failed": 30}[status]
    line = f"cannot write it; stopped at step {step}, to continue from the last checkpoint: "
    with pytest.raises(CannotWrite, match=line):
        fit(tmp_path / "r", *TINY)
    assert ended == [None]


def test_a_full_disk_keeps_the_last_checkpoint(run, tmp_path):
    before = (run / "checkpoint.pt").read_bytes()
    limits = ((resource.RLIMIT_FSIZE, len(before) // 2),)
    full = forked(*LONGER, "name=trained", cwd=tmp_path, limits=limits)
    assert (full.returncode, full.stderr.count("\n")) == (1, 1), full.stderr
    assert (run / "checkpoint.pt").read_bytes() == before
    found = checkpoint.find_resumable(RunRecord(run))
    assert found.content["step"] == 60
    assert np.isfinite(found.content["window"].numpy()).all()
