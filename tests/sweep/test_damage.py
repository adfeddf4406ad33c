"""Damaged files of one run: it is named, the others go on."""

import shutil

import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.errors import Damaged
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import TINY
from tests.forked import forked

SWEEP = (*TINY, "-m", "name=s", "seed=0,1", "trainer.num_steps=30")
SUMMARIES = [b"", b"{}", b"[]", b"null", b"\xff\xfe\x00", b'{"status": "completed"', b"7"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    done = forked(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "multirun" / "s"


@pytest.fixture
def sweep(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "multirun" / "s")


@pytest.mark.parametrize("content", SUMMARIES, ids=repr)
def test_a_damaged_summary_is_listed_and_left_out(content, sweep):
    (sweep / "seed=0" / "summary.json").write_bytes(content)
    with pytest.raises(Damaged) as said:
        RunRecord(sweep / "seed=0").summary()
    assert "\n" not in str(said.value) and "seed=0/summary.json is damaged" in str(said.value)
    assert [state.status for state in run_states(sweep)] == ["damaged", "done"]
    runs = load_runs(sweep)
    assert list(runs.runs["seed"]) == [1]
    assert any("seed=0/summary.json is damaged" in note for note in runs.notes)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff", b'{"runs": 3, "commands": []}'], ids=repr
)
def test_a_damaged_list_of_runs_is_reported_and_written_again(content, sweep, tmp_path):
    (sweep / "sweep.json").write_bytes(content)
    shown = forked("multirun/s", "--once", module="bcq_exp.status", cwd=tmp_path)
    assert shown.returncode == 0 and "2 runs: 2 done" in shown.stdout
    assert shown.stderr.count("\n") == 1 and "sweep.json is damaged" in shown.stderr
    done = forked(*SWEEP, cwd=tmp_path)
    assert done.returncode == 0 and "2 complete" in done.stdout and "Traceback" not in done.stderr
    again = forked("multirun/s", "--once", module="bcq_exp.status", cwd=tmp_path)
    assert (again.stderr, again.stdout) == ("", shown.stdout)


@pytest.mark.parametrize("table", ["train", "eval", "timing"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00\n", b"step,x\n1,\xc3\x28\n", b"step,x\na,b\n"])
def test_garbage_in_a_table_is_reported(table, content, sweep):
    (sweep / "seed=0" / f"{table}.csv").write_bytes(content)
    with pytest.raises(Damaged, match=f"{table}.csv is damaged"):
        RunRecord(sweep / "seed=0").rows(table)
    if table == "timing":
        assert [state.status for state in run_states(sweep)] == ["damaged", "done"]
    assert any(f"{table}.csv is damaged" in note for note in load_runs(sweep).notes)


DAMAGE = {
    "seed=0": lambda run: (run / "summary.json").write_bytes(b"{}"),
    "seed=1": lambda run: (run / "train.csv").write_bytes(b"step,x\na,b\n"),
    "seed=2": lambda run: (run / "eval_returns.npz").write_bytes(b"PK cut"),
    "seed=3": lambda run: [path.write_bytes(b"") for path in run.glob("checkpoint*.pt")],
}


@pytest.mark.slow
def test_a_resumed_sweep_leaves_the_damaged_runs_and_trains_the_others(sweep):
    more = (*SWEEP, "seed=range(5)")
    done = forked(*more, cwd=sweep.parents[1])
    assert done.returncode == 0, done.stderr
    for name, spoil in DAMAGE.items():
        spoil(sweep / name)
    longer = (*more, "trainer.num_steps=45")
    done = forked(*longer, cwd=sweep.parents[1])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "4 of 5 runs failed" in done.stderr
    assert all(name in done.stderr for name in DAMAGE) and "seed=4" not in done.stderr
    assert RunRecord(sweep / "seed=4").summary()["step"] == 45
    again = forked(*longer, "resume=restart", cwd=sweep.parents[1])
    assert again.returncode == 0, again.stderr
