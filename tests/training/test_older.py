"""A run that version 0.1 recorded still goes on, is evaluated and compared (tests/old_run)."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.analysis.findings import findings
from bcq_exp.data import pendulum
from bcq_exp.errors import UserError
from bcq_exp.training.older import with_engine
from bcq_exp.training.record import RunRecord
from tests.commands import fit
from tests.forked import forked

OLD = Path(__file__).parents[1] / "old_run"


@pytest.fixture(autouse=True)
def old_data(tmp_path, monkeypatch):
    """Pendulum's mixture as version 0.1 recorded it: each third from the same states."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(pendulum, "_seed", lambda seed, part: (seed, 0))
    monkeypatch.setattr(pendulum, "VERSIONS", {})


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD, tmp_path / "multirun" / "old")


def overrides_of(folder):
    words = json.loads((folder / "summary.json").read_text())["command"].split()[3:]
    return [word.strip("'") for word in words if not word.startswith("trainer.num_steps")]


def rows(text):
    header, *lines = text.splitlines()
    return header, [[float(x) if x else None for x in line.split(",")] for line in lines]


def test_it_goes_on_where_the_old_code_went(old):
    fit(old, *overrides_of(old), "trainer.num_steps=240")
    for table in ("train", "eval"):
        expected = (OLD / f"{table}_after_going_on.csv").read_text()
        found = (old / f"{table}.csv").read_text()
        assert found.startswith((OLD / f"{table}.csv").read_text())  # what was there stays
        names, values = rows(found)
        assert names == rows(expected)[0]
        for row, of_old_code in zip(values, rows(expected)[1], strict=True):
            assert row == pytest.approx(of_old_code, rel=1e-3)  # to the bit on one machine
    summary = RunRecord(old).summary()
    assert (summary["status"], summary["step"], summary["algorithm"]) == ("completed", 240, "BCQ")


def test_another_configuration_is_still_another(old):
    with pytest.raises(UserError, match=r"configuration: algo.lmbda \(0.75 -> 0.5\); choose"):
        fit(old, *overrides_of(old), "algo.lmbda=0.5", "trainer.num_steps=240")


def test_a_complete_one_is_done_at_once(old, tmp_path):
    before = (old / "summary.json").read_bytes()
    fit(old, *overrides_of(old), "trainer.num_steps=120")
    assert (old / "summary.json").read_bytes() == before


def test_one_whose_summary_has_a_checksum_is_too(old):
    record = RunRecord(old)
    summary = record.summary()
    trainer = {k: v for k, v in summary["config"]["trainer"].items() if k != "engine"}
    trainer |= {"capture": "auto", "compile": False}  # as version 0.2 wrote it
    record.write_summary({**summary, "config": {**summary["config"], "trainer": trainer}})
    before = (old / "summary.json").read_bytes()
    fit(old, *overrides_of(old), "trainer.num_steps=120")
    assert (old / "summary.json").read_bytes() == before


def test_it_is_evaluated(old, tmp_path):
    done = forked(
        f"run={old}", "num_episodes=2", "seed=1000", cwd=tmp_path, module="bcq_exp.evaluate"
    )
    assert done.returncode == 0, done.stderr
    mean = float(re.search(r"return  (\S+) ±", done.stdout)[1])
    assert mean == pytest.approx(RunRecord(old).summary()["last"]["return_mean"], abs=0.06)


def test_it_is_compared_with_one_of_today(old, tmp_path):
    fit(tmp_path / "multirun" / "new", *overrides_of(old), "trainer.num_steps=120", "seed=1")
    runs = load_runs(tmp_path / "multirun")
    assert list(runs.runs["algorithm"]) == ["BCQ", "BCQ"]
    assert runs.keys == ()  # but for the seed they are one setting
    assert runs.metrics[:4] == ("actor_loss", "critic1_loss", "critic2_loss", "vae_loss")
    stuck = [watch["above"] for watches in runs.runs["watches"] for watch in watches[2:]]
    assert stuck == pytest.approx([0.95 * 0.1] * 2)
    assert findings(runs) == []


def test_the_keys_that_engine_replaced_are_no_difference():
    stored = {"seed": 1, "trainer": {"num_steps": 5, "capture": "auto", "compile": False}}
    assert with_engine(stored) == {"seed": 1, "trainer": {"num_steps": 5, "engine": "auto"}}
    assert with_engine(with_engine(stored)) == with_engine(stored)
