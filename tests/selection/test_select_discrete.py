"""The command on discrete actions: recorded, learned, estimated and shown side by side."""

import json

import numpy as np
import pandas as pd
import pytest

from bcq_exp.selection.candidates import load_evidence
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_TASK
from tests.forked import forked

DATA = (
    "dataset=table",
    "dataset.path=log.csv",
    "dataset.observations=pulse",
    "dataset.actions=dose",
    "dataset.holdout=0.3",
    "trainer.eval_episodes=0",
)
FAST = ("num_steps=60", "num_members=2", "hidden_sizes=[16]")
ESTIMATES = ("fqe", "dr", "pdwis", "wis")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a table of 200 short episodes and the policies of two algorithms."""
    home, rng = tmp_path_factory.mktemp("discrete"), np.random.default_rng(0)
    rows = ["episode,time,pulse,dose,reward,terminated"]
    for episode in range(200):
        count = rng.integers(2, 5)
        for t in range(count):
            pulse, reward = rng.normal(size=2)
            ends = int(t == count - 1)
            rows.append(f"{episode},{t},{pulse:.3f},{rng.integers(2)},{reward:.3f},{ends}")
    (home / "log.csv").write_text("\n".join(rows) + "\n")
    done = forked("-m", *ANY_TASK, *DATA, "algo=discrete_bcq,bc", "name=s", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def select(*arguments, cwd):
    done = forked("multirun/s", *FAST, *arguments, module="bcq_exp.select", cwd=cwd)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    return said, json.loads((cwd / "multirun" / "s" / "ope" / "selection.json").read_text())


@pytest.fixture(scope="module")
def selected(home):
    """Words and content of a selection."""
    return select("horizon=3", "epsilon=0.2", cwd=home)


def test_all_estimators_are_printed_and_written(home, selected, monkeypatch):
    said, content = selected
    assert "by several estimators ± interval" in said and "effective episodes" in said
    assert "policies with 0.2 of actions at random (epsilon)" in said
    assert "behaviour probabilities are estimated; on" in said
    runs = sorted((home / "multirun" / "s").glob("algo=*"))
    monkeypatch.chdir(home)
    evidence = load_evidence(runs, trusted=False)
    mean = evidence.returns(0.99, 3).mean()
    behaviour = content["behaviour"]
    assert behaviour["pdwis"] == pytest.approx(mean, rel=1e-5)
    assert behaviour["wis"] == pytest.approx(mean, rel=1e-5)
    assert behaviour["ess"] == pytest.approx(len(evidence.episode_rows))
    policies = pd.read_csv(home / "multirun" / "s" / "ope" / "policies.csv")
    for row in (*content["policies"], behaviour):
        for name in ESTIMATES:
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert 5 <= row["ess"] <= behaviour["ess"] + 1e-6 and 0 <= row["support"] <= 1
        assert 0 < row["ess_least"] <= behaviour["ess"] + 1e-6
    assert np.isfinite(policies[["wis", "pdwis_low", "dr_high", "ess_least"]]).all(axis=None)
    kept = RunRecord(runs[0]).estimates()[-1]
    assert kept["settings"]["epsilon"] == 0.2 and kept["dr"] is not None
    found = content["calibration"]
    assert found["num_episodes"] == len(evidence.episode_rows)
    assert sum(count for *_, count in found["reliability"]) == len(evidence.dataset.transitions)


def test_own_critics_value_discrete_actions(selected):
    rows = {row["run"]: row for row in selected[1]["policies"]}
    assert np.isfinite(rows["algo=discrete_bcq"]["critic_value"])
    assert rows["algo=discrete_bcq"]["td_error"] > 0
    assert rows["algo=bc"]["critic_value"] is None


def test_the_page_shows_estimators_and_calibration(home, selected, opened):
    _, content = selected
    assert forked("multirun/s", module="bcq_exp.compare", cwd=home).returncode == 0
    page = opened(home / "multirun" / "s" / "report" / "index.html")
    rows = page.locator("#estimator-table tbody tr")
    assert rows.count() == 3 and "behaviour policy" in rows.nth(0).inner_text()
    points = page.evaluate("document.getElementById('estimator-plot').data[1]")
    expected = [row["dr"] for row in (content["behaviour"], *content["policies"])]
    assert points["x"] == pytest.approx(expected, rel=1e-4)
    assert "Expected calibration error" in page.inner_text("#calibration-how")


def test_an_epsilon_of_1_is_refused(home):
    done = forked("multirun/s", "epsilon=1", module="bcq_exp.select", cwd=home)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "epsilon=1: must be a number in [0, 1)" in done.stderr


@pytest.mark.slow
def test_too_few_effective_episodes_leave_no_estimates_by_weights(home):
    states = forked(*ANY_TASK, *DATA, "algo=bc", "name=few", "dataset.holdout=0.02", cwd=home)
    assert states.returncode == 0, states.stderr
    done = forked("multirun/few", *FAST, "output=few", module="bcq_exp.select", cwd=home)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    rows = json.loads((home / "few" / "selection.json").read_text())["policies"]
    assert all(row["wis"] is row["pdwis_low"] is row["dr"] is None for row in rows)
    assert "an effective sample size below 5" in said
    assert all(row["fqe"] is not None for row in rows)


@pytest.mark.slow
def test_the_estimate_is_an_objective(home):
    given = ("algo=dqn", "trainer.objective=fqe", "trainer.fqe_steps=20", "trainer.eval_episodes=0")
    done = forked(*ANY_TASK, *DATA, *given, "name=objective", cwd=home)
    assert done.returncode == 0, done.stderr
    (row,) = RunRecord(home / "multirun" / "objective").estimates()
    assert np.isfinite(row["fqe"]) and "dr" not in row
