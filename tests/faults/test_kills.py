"""Processes that die at every point where they write, and go on to the same files."""

import random
import shutil
from itertools import islice

import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import COMPILED, bcq_exp, fit
from tests.faults.dying import KILLED, faults, points, run
from tests.same import assert_same_rows, assert_same_run

SEEDS = range(3)
SWEEP = ("-m", "name=s", f"seed={','.join(map(str, SEEDS))}")
LONG = pytest.mark.timeout(3000)
NAMES = [f"seed={seed}" for seed in SEEDS]


@pytest.fixture(scope="module")
def data(common):
    """The options of a data set in a file, so that there is a cache."""
    from bcq_exp.data import minari_store

    if not minari_store.data_folder("faults/pendulum-v0").parent.exists():
        options = ("id=faults/pendulum-v0", "env=Pendulum-v1", "num_steps=1000")
        done = bcq_exp(*options, cwd=common, module="bcq_exp.collect")
        assert done.returncode == 0, done.stderr
    return ("dataset=minari", "dataset.id=faults/pendulum-v0", "dataset.download=false")


def one_cache_each(monkeypatch, folder):
    """The process' caches; a cache that is there already is not written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@pytest.mark.parametrize(
    "kills",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(50, marks=[pytest.mark.faults, LONG])],
)
def test_a_run_that_is_killed_anywhere_goes_on(kills, data, tmp_path, monkeypatch, record_property):
    options = (*(o for o in COMPILED if not o.startswith("dataset.")), *data)
    one_cache_each(monkeypatch, tmp_path)
    found = points(*options, "name=straight", cwd=tmp_path)
    straight, folder = (tmp_path / "multirun" / name for name in ("straight", "r"))
    killed = 0
    for fault in islice(faults(found, random.Random(kills)), 4 * kills):
        done = run(*options, "name=r", cwd=tmp_path, FAULT=fault)
        assert "Traceback" not in done.stderr, (fault, done.stderr)
        if done.returncode in KILLED:
            killed += 1
            RunRecord(folder).summary()  # whole, or there is none
        else:  # it did not come by again
            assert done.returncode == 0, (fault, done.stderr)
            assert_same_run(folder, straight)
            for old in (folder, tmp_path / "cache"):
                shutil.rmtree(old)
        if killed == kills:
            break
    done = run(*options, "name=r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, straight)
    assert not [path.name for path in folder.glob(".*.*[0-9]")], "something half-written stays"
    assert killed == kills
    record_property("tried", ("kills of a run, wherever it writes", killed))


@pytest.mark.parametrize(
    "kills",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(20, marks=[pytest.mark.faults, LONG])],
)
def test_a_sweep_that_is_killed_anywhere_goes_on(kills, tmp_path, record_property):
    options = (*SWEEP, *COMPILED)
    found = points(*options, "name=straight", cwd=tmp_path)
    straight, folder = (tmp_path / "multirun" / name for name in ("straight", "s"))
    killed = 0
    for fault in islice(faults(found, random.Random(kills)), 4 * kills):
        done = run(*options, cwd=tmp_path, FAULT=fault)
        assert "Traceback" not in done.stderr, (fault, done.stderr)
        if done.returncode in KILLED:
            killed += 1
            if (folder / "sweep.json").exists():
                states = {state.status for state in run_states(folder)}
                assert states <= {"done", "interrupted", "missing"}, (fault, states)
        else:
            assert done.returncode == 0, (fault, done.stderr)
            assert_same_sweep(folder, straight)
            shutil.rmtree(folder)
        if killed == kills:
            break
    done = run(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_sweep(folder, straight)
    assert killed == kills
    record_property("tried", ("kills of a vectorized sweep", killed))


def assert_same_sweep(one, other):
    """To the bit, where the runs went on together; by what they learnt, where they did not."""
    assert len(load_runs(one).evaluations) == len(load_runs(other).evaluations)
    for name in NAMES:
        for table in ("train", "eval"):
            rows, expected = (RunRecord(folder / name).rows(table) for folder in (one, other))
            assert [row["step"] for row in rows] == [row["step"] for row in expected]
            for row, same in zip(rows, expected, strict=True):
                # float32, and another order of summing in a smaller stack
                assert row == pytest.approx(same, rel=0.05, abs=0.05)


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_runs_of_a_worker_that_dies_go_on(launcher, tmp_path, record_property):
    options = (*SWEEP, *COMPILED, f"hydra/launcher={launcher}", "hydra.launcher.group_size=1")
    once = tmp_path / "once"
    fault = {"point": "os.rename checkpoint.pt", "count": 2, "torn": None}
    folder = tmp_path / "multirun" / "s"
    done = run(*options, cwd=tmp_path, FAULT=fault, FAULT_ONCE=str(once))
    assert once.exists()
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    for seed in SEEDS:
        alone = tmp_path / f"alone{seed}"
        fit(alone, *COMPILED, f"seed={seed}")
        assert_same_rows(folder / f"seed={seed}", alone)
    record_property("tried", (f"deaths of a worker, {launcher}", 1))
