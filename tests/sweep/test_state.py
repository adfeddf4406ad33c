"""The state of a sweep: its expected runs, and what is read from each run."""

import json
from dataclasses import asdict
from pathlib import Path

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.sweep import state
from bcq_exp.training.folders import hold, sweep_of
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_run


def made(folder, returns, **keywords):
    run = make_run(folder, returns, **keywords)
    record = RunRecord(run)
    record.write_summary({**record.summary(), "record": record.marks()})
    return run


def content(folder):
    return json.loads((folder / "sweep.json").read_text())


def test_a_running_run_has_the_time_of_its_remaining_steps_and_its_last_return(tmp_path):
    state.expect(tmp_path, ["a", "b"], "bcq_exp -m")
    changes = {"trainer.num_steps": 10_000}
    run = made(tmp_path / "a", [9.0, 2.0], status="running", changes=changes)
    with hold(run):
        found, missing = state.run_states(tmp_path)
    assert (found.status, found.step, found.num_steps) == ("running", 2000, 10_000)
    assert (found.seconds_left, found.last_return) == (80.0, 2.0)  # 8000 steps at 100 a second
    assert (missing.name, missing.status, missing.step) == ("b", "missing", 0)
    stopped, _ = state.run_states(tmp_path)
    assert (stopped.status, stopped.seconds_left) == ("interrupted", None)


def test_the_estimate_is_the_objective_not_one_of_select_with_other_settings(tmp_path):
    changes = {"trainer.objective": "fqe", "trainer.fqe_steps": 50}
    record = RunRecord(made(tmp_path / "a", [9.0], changes=changes))
    state.expect(tmp_path, ["a"], "bcq_exp -m")
    for step, gamma, value in ((1000, 0.99, 1.0), (2000, 0.99, 2.0), (2000, 1.0, 300.0)):
        settings = asdict(FQESettings(num_steps=50, gamma=gamma))
        record.add_estimate({"step": step, "settings": settings, "fqe": value})
    (found,) = state.run_states(tmp_path)
    assert found.estimate == 2.0


def test_a_larger_grid_adds_runs_and_a_new_start_forgets_them(tmp_path):
    state.expect(tmp_path, ["a", "b"], "one")
    state.expect(tmp_path, ["b", "c"], "two")
    state.expect(tmp_path, ["c"], "one")
    assert state.expected(tmp_path) == ["a", "b", "c"]
    assert content(tmp_path)["commands"] == ["one", "two"]
    state.note_stopped(tmp_path, {"a": "2 of 2 settings"})
    (tmp_path / "study.db").write_text("")
    for name in ("a", "x/b"):  # the second is in a nested folder
        state.expect(tmp_path, [name], "one")
        make_run(tmp_path / name, [1.0])
    state.set_aside(tmp_path, "study.db")
    aside = {path.name for path in (tmp_path / ".set_aside").iterdir()}
    assert aside == {"study.db.1", "a.1", "b.1"}
    assert content(tmp_path) == {"commands": ["one", "two"], "runs": [], "stopped": {}}


def test_a_run_that_failed_since_it_was_stopped_has_the_reason_of_its_failure(tmp_path):
    state.expect(tmp_path, ["a", "b"], "bcq_exp -m")
    made(tmp_path / "a", [1.0], status="stopped")
    made(tmp_path / "b", [1.0], status="failed", failure="a loss is not finite")
    state.note_stopped(tmp_path, {name: "2 of 2 settings" for name in "ab"})
    reasons = [found.reason for found in state.run_states(tmp_path)]
    assert reasons == ["2 of 2 settings", "a loss is not finite"]


def test_the_sweep_of_a_run_is_found_from_any_folder(tmp_path, monkeypatch):
    state.expect(tmp_path, ["a/seed=0"], "bcq_exp -m")
    (tmp_path / "a" / "seed=0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert sweep_of(Path("seed=0")) == tmp_path


def test_a_sweep_of_another_program_with_hydra_has_no_run_of_ours(tmp_path):
    (tmp_path / "multirun.yaml").write_text("{}")
    assert sweep_of(tmp_path / "0" / "multirun" / "mine") is None
