"""Processes race for a name, a sweep, a recording: one has it, the others are told in one line."""

import os
import shutil
import subprocess

import pytest

from bcq_exp.data.datasets import load_minari
from bcq_exp.training.record import RunRecord
from tests.commands import COMPILED, command, fit
from tests.same import assert_same_rows

RACERS, ROUNDS = 4, 4
# longer than starts lie apart
LONG = (*COMPILED, "trainer.num_steps=1200", "trainer.eval_every=600")
REFUSED = (  # by the system's lock, or by what the winner has left
    "is training this run; wait for it", "is launching this sweep; wait for it",
    "another process is recording it", "already exists",
)  # fmt: skip


def race(*args, cwd, **options):
    """The same command RACERS times at once: one does it, the others are refused in one line."""
    racers = [
        subprocess.Popen(command(*args, **options), cwd=cwd, stderr=subprocess.PIPE, text=True)
        for _ in range(RACERS)
    ]
    said = [racer.communicate(timeout=200)[1] for racer in racers]
    ended = [racer.returncode for racer in racers]
    refused = [text for text, status in zip(said, ended, strict=True) if status == 2]
    assert set(ended) == {0, 2} and len(refused) == RACERS - 1, said
    for text in refused:
        assert text.count("\n") == 1 and any(words in text for words in REFUSED), text


@pytest.mark.faults
def test_a_name(tmp_path, record_property):
    fit(tmp_path / "alone", *LONG)
    for _ in range(ROUNDS):
        race(*LONG, "name=r", cwd=tmp_path)
        assert_same_rows(tmp_path / "multirun" / "r", tmp_path / "alone")
        shutil.rmtree(tmp_path / "multirun")
    record_property("tried", ("races for a run's name", ROUNDS))


@pytest.mark.faults
def test_a_sweep(tmp_path, record_property):
    for _ in range(ROUNDS):
        race(*LONG, "-m", "name=s", "seed=0,1", cwd=tmp_path)
        for seed in (0, 1):
            rows = RunRecord(tmp_path / "multirun" / "s" / f"seed={seed}").rows("train")
            assert [row["step"] for row in rows] == list(range(40, 1201, 40))
        shutil.rmtree(tmp_path / "multirun")
    record_property("tried", ("races for a sweep's name", ROUNDS))


@pytest.mark.faults
def test_a_recording(tmp_path, monkeypatch, record_property):
    monkeypatch.setitem(os.environ, "MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    hashes = set()
    for number in range(ROUNDS):
        id = f"race/set{number}-v0"
        given = ("env=Pendulum-v1", "num_steps=5000", "seed=0")
        race(f"id={id}", *given, cwd=tmp_path, module="bcq_exp.collect")
        hashes.add(load_minari(id).content_hash)
    assert len(hashes) == 1
    record_property("tried", ("races for a recording", ROUNDS))
