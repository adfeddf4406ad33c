import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from bcq_exp.data.datasets import load_pendulum
from bcq_exp.data.minari_store import local_ids, publish
from bcq_exp.data.transitions import DataError

STEPS = 3000


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_levels_are_ordered():
    returns = {
        level: load_pendulum(level, num_steps=STEPS).behaviour_return
        for level in ("random", "medium", "expert", "mixture")
    }
    assert returns["random"] < -900 < returns["medium"] < -400 < -250 < returns["expert"]
    assert returns["random"] < returns["mixture"] < returns["expert"]


def test_a_mixture_is_a_third_of_each_from_starts_of_its_own():
    mixture = load_pendulum("mixture", num_steps=601)
    assert mixture.episode_lengths.tolist() == [200, 200, 200, 1]
    expert = load_pendulum("expert", num_steps=200)
    assert mixture.episode_returns[0] == pytest.approx(expert.behaviour_return)
    starts = mixture.transitions.obs[[0, 200, 400]]
    assert len(np.unique(starts, axis=0)) == 3
    expert_return, medium_return, random_return = mixture.episode_returns[:3]
    assert random_return < medium_return < expert_return


def test_the_default_has_the_plain_name_and_size():
    dataset = load_pendulum()
    assert dataset.id == "bcq_exp/pendulum/mixture-v1"
    assert len(dataset.transitions) == 50_000
    scores = [dataset.normalized_score(value) for value in (-1196.757, -150.479)]
    assert scores == pytest.approx([0, 100])
    assert dataset.make_env().spec.id == "Pendulum-v1"


def test_other_requests_are_other_data_sets():
    requests = [{"num_steps": 300}, {"num_steps": 400}, {"num_steps": 300, "seed": 1}]
    sets = [load_pendulum("random", **request) for request in requests]
    assert len({dataset.id for dataset in sets}) == 3
    assert len({dataset.content_hash for dataset in sets}) == 3
    assert sets[0].id == "bcq_exp/pendulum/random-300steps-seed0-v0"


def test_it_is_made_once_and_reproducibly(home, monkeypatch, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="bcq_exp"):
        first = load_pendulum("medium", num_steps=300)
        load_pendulum("medium", num_steps=300)
    assert [record.message.split(":")[0] for record in caplog.records] == [f"recording {first.id}"]
    assert capfd.readouterr().out == ""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "other"))
    assert load_pendulum("medium", num_steps=300).content_hash == first.content_hash


def test_unknown_requests_are_refused():
    with pytest.raises(DataError, match="'best' is unknown; allowed are expert, medium, random"):
        load_pendulum("best")
    with pytest.raises(DataError, match="num_steps=0 must be at least 3"):
        load_pendulum(num_steps=0)
    with pytest.raises(DataError, match="seed=-1"):
        load_pendulum(seed=-1)


def test_a_folder_that_cannot_be_written(home):
    (home / "minari").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written to .* set MINARI_DATASETS_PATH"):
        load_pendulum(num_steps=300)


def test_two_processes_at_once_make_one_data_set(home):
    code = (
        "import logging; logging.basicConfig(level=logging.INFO, format='%(message)s',"
        " handlers=[logging.StreamHandler(__import__('sys').stdout)])\n"
        "from bcq_exp.data.datasets import load_pendulum\n"
        "print('hash', load_pendulum('random', num_steps=6000).content_hash)"
    )
    outputs = [process.communicate(timeout=60)[0] for process in [start(code), start(code)]]
    assert sum(output.count("recording") for output in outputs) == 1
    assert len({output.split("hash ")[1] for output in outputs}) == 1
    assert [p.name for p in (home / "minari" / ".bcq_exp").iterdir() if p.is_dir()] == []


def test_a_file_system_without_locks(monkeypatch, caplog):
    def refuse(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert len(load_pendulum(num_steps=300).transitions) == 300
    assert "is on a file system without locks" in caplog.text


def test_a_killed_process_leaves_nothing_that_looks_complete():
    code = (
        "import time; from bcq_exp.data.minari_store import publish\n"
        "def write(folder):\n"
        "    (folder / 'metadata.json').write_text('{}'); print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "publish('test/toy-v0', write)"
    )
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert local_ids() == []
    publish("test/toy-v0", lambda folder: None)
    assert local_ids() == ["test/toy-v0"]


def test_the_first_of_two_publishers_wins():
    def write(folder):
        publish("test/toy-v0", lambda other: (other / "first").touch())

    with pytest.raises(DataError, match="already exists"):
        publish("test/toy-v0", write)
