"""Workers of this machine that die or are stopped, and the groups that they had."""

import logging
import math
import os
import signal
import time

import pytest

from bcq_exp.errors import RunStopped, UserError
from bcq_exp.sweep import workers
from bcq_exp.sweep.workers import Joblib, Ray
from bcq_exp.training.folders import LOCK


def dying(group):
    """The group's name, once its worker has died ``deaths`` times, after a file has appeared."""
    folder, name, deaths, after = group
    while after is not None and not (folder / after).exists():
        time.sleep(0.02)
    died = folder / f"{name} died"
    before = len(died.read_text()) if died.exists() else 0
    if before < deaths:
        died.write_text("x" * (before + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_joblib_trains_groups_of_dead_workers_again_and_gives_up_after_deaths_in_a_row(
    tmp_path, monkeypatch, caplog
):
    pytest.importorskip("joblib")
    monkeypatch.setattr(workers, "MOST_DEATHS", 2)
    # one death each is not two in a row, as the first group's result comes between
    groups = [("a", 1, None), ("b", 1, "a"), ("c", 9, "b"), ("d", 0, "never")]
    results = {}
    for index, result in Joblib(2).run(dying, [(tmp_path, *each) for each in groups], tmp_path):
        results[index] = result
        if isinstance(result, str):
            (tmp_path / result).touch()
    assert (results.pop(0), results.pop(1)) == ("a", "b")
    assert results.keys() == {2, 3}
    assert all(isinstance(result, BaseException) for result in results.values())
    assert len((tmp_path / "c died").read_text()) == 2
    assert len(caplog.messages) == 4
    assert all("SIGKILL" in message for message in caplog.messages), "how it ended"


def test_a_worker_that_a_signal_stopped_trains_no_other_group(monkeypatch):
    monkeypatch.setattr(workers, "_stopped", None)

    def end(stopped):
        raise stopped

    with pytest.raises(RunStopped, match="disk is full"):
        workers._in_worker(end, 0, RunStopped("disk is full", status=1))
    assert workers._in_worker(abs, 1, -1) == (1, 1)
    stopped = RunStopped("stopped by SIGTERM", status=128 + signal.SIGTERM)
    assert workers._in_worker(end, 2, stopped) == (2, stopped)
    assert workers._in_worker(abs, 3, -1) == (3, stopped)


@pytest.mark.slow
def test_ray_checks_its_nodes_and_returns_results_and_errors_of_groups(tmp_path, caplog):
    ray = pytest.importorskip("ray")
    made = Ray(2, init={"num_cpus": 1}, remote={})
    with pytest.raises(UserError, match="does not see the sweep's folder; launch from a file sy"):
        list(made.run(math.sqrt, [4.0], tmp_path))
    assert not ray.is_initialized()
    (tmp_path / LOCK).touch()
    with caplog.at_level(logging.WARNING, "bcq_exp"):
        found = dict(made.run(math.sqrt, [4.0, -1.0], tmp_path))
    assert found[0] == 2.0
    assert (type(found[1]), str(found[1])) == (ValueError, "math domain error")
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("bcq_exp")]
    assert not ours  # a node has as many CPUs as a task asks for
