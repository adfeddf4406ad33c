import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcq_exp.data import cache, transitions
from bcq_exp.data.datasets import load_minari
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import UserError

ID = "test/toy-v0"


@pytest.fixture
def stored(minari_files, home):
    """A data set that has been loaded once, and its one cache entry."""
    dataset = load_minari(minari_files.write(ID, ref_min_score=1.0, ref_max_score=2.0))
    (entry,) = (home / "cache" / "bcq_exp" / "transitions").iterdir()
    return dataset, entry


@pytest.fixture
def reads(monkeypatch):
    """Counts the slow reads from here on."""
    from bcq_exp.data import datasets

    calls = []
    read = datasets.read_minari
    monkeypatch.setattr(datasets, "read_minari", lambda *args: calls.append(args) or read(*args))
    return calls


def assert_same(one, other):
    assert one.content_hash == other.content_hash
    for name, array in one.transitions.arrays().items():
        assert np.array_equal(array, getattr(other.transitions, name)), name
        assert array.dtype == getattr(other.transitions, name).dtype
    assert one.observation_space == other.observation_space
    assert one.action_space == other.action_space
    assert one.leaves == other.leaves
    assert one.env_spec == other.env_spec
    assert one.reference_scores == other.reference_scores
    assert np.array_equal(one.episode_lengths, other.episode_lengths)
    assert np.array_equal(one.episode_returns, other.episode_returns)


def test_the_second_load_is_the_same_without_reading(stored, reads):
    assert_same(load_minari(ID), stored[0])
    assert reads == []


def test_a_cached_load_imports_neither_minari_nor_h5py(stored):
    code = (
        "import sys; from bcq_exp.data.datasets import load_minari\n"
        f"load_minari({ID!r}); print([m for m in ('minari', 'h5py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_changed_source_is_read_again(stored, reads, minari_files):
    def change(file):
        file["episode_0/rewards"][0] = 7.0

    minari_files.edit(ID, change)
    assert load_minari(ID).transitions.rew[0] == 7.0
    assert len(reads) == 1


def test_a_changed_time_alone_is_read_again(stored, reads, minari_files):
    os.utime(minari_files.folder(ID) / "main_data.hdf5", ns=(1, 1))
    load_minari(ID)
    assert len(reads) == 1


def test_changed_metadata_are_read_again(stored, reads, minari_files):
    minari_files.edit_metadata(ID, ref_max_score=3.0)
    assert load_minari(ID).reference_scores == (1.0, 3.0)


def test_without_the_cache_nothing_is_looked_up_or_written(minari_files, home, reads):
    id = minari_files.write()
    load_minari(id, use_cache=False)
    assert not (home / "cache").exists()
    load_minari(id)
    load_minari(id, use_cache=False)
    assert len(reads) == 3


ARRAYS = (
    *("act", "obs", "obs_next", "rew", "terminated", "truncated"),
    *("episode_lengths", "episode_returns", "episode_rows"),
)
FILES = [*(f"{name}.npy" for name in ARRAYS), "meta.json", "sha256.json"]


def test_an_entry_has_these_files(stored):
    assert sorted(path.name for path in stored[1].iterdir()) == sorted(FILES)


def cut(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(content))


def tear(path: Path, rng: np.random.Generator) -> None:
    """A disk's sector of zeros, as a crash leaves it; in random bytes where it had been zeros."""
    content = bytearray(path.read_bytes())
    first = int(rng.integers(len(content)))
    torn = slice(first, first + 512)
    blank = bytes(len(content[torn]))
    content[torn] = blank if content[torn] != blank else rng.bytes(len(blank))
    path.write_bytes(bytes(content))


def lengthen(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() + rng.bytes(3))


def remove(path: Path, _: np.random.Generator) -> None:
    path.unlink()


def stand_in_the_way(path: Path, _: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut, flip, tear, lengthen, remove, stand_in_the_way]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_cache_entry_is_found_and_rebuilt(stored, reads, caplog, name):
    dataset, entry = stored
    rng = np.random.default_rng(list(name.encode()))
    damages = [*DAMAGES, *[flip] * 10]
    for count, damage in enumerate(damages, 1):
        damage(entry / name, rng)
        assert_same(load_minari(ID), dataset)
        assert len(reads) == len(caplog.messages) == count
        assert f"cached arrays in {entry} are" in caplog.messages[-1]
    assert_same(load_minari(ID), dataset)
    assert len(reads) == len(damages)


def test_files_that_changed_places_are_found(stored, reads):
    dataset, entry = stored
    for one, other in [("obs", "obs_next"), ("terminated", "truncated")]:
        os.rename(entry / f"{one}.npy", entry / "between")
        os.rename(entry / f"{other}.npy", entry / f"{one}.npy")
        os.rename(entry / "between", entry / f"{other}.npy")
        assert_same(load_minari(ID), dataset)
    assert len(reads) == 2


def test_another_action_bound_in_the_metadata_is_not_used(stored, reads):
    dataset, entry = stored
    meta = json.loads((entry / "meta.json").read_text())
    meta["action_space"]["low"] = [-7.0]
    (entry / "meta.json").write_text(json.dumps(meta))
    assert load_minari(ID).action_space == dataset.action_space
    assert len(reads) == 1


def test_a_large_set_is_mapped_in_its_first_load_too(stored, reads, monkeypatch):
    dataset, entry = stored
    monkeypatch.setattr(transitions, "LARGE", 0)
    flip(entry / "rew.npy", np.random.default_rng(0))
    for _ in range(2):
        mapped = load_minari(ID)
        assert_same(mapped, dataset)
        for name, array in mapped.transitions.arrays().items():
            assert not array.flags.writeable
            assert str(entry / f"{name}.npy") in Path("/proc/self/maps").read_text()
    assert len(reads) == 1
    shutil.rmtree(entry)
    assert_same(mapped, dataset)  # what is in use stays, whoever deletes the files
    assert_same(pickle.loads(pickle.dumps(mapped)), dataset)


def test_a_large_set_is_loaded_though_another_process_replaces_its_entry(minari_files, monkeypatch):
    rename = os.rename

    def lose(source, target):
        rename(source, target)
        shutil.rmtree(target)

    dataset = load_minari(minari_files.write(ID), use_cache=False)
    monkeypatch.setattr(transitions, "LARGE", 0)
    monkeypatch.setattr(os, "rename", lose)
    assert_same(load_minari(ID), dataset)


def race(entry, barrier, results, rounds):
    """Load whenever all are ready; the first of a round finds the entry damaged."""
    try:
        for count in range(rounds):
            if barrier.wait(30) == 0:
                flip(entry / FILES[count % len(FILES)], np.random.default_rng(count))
            barrier.wait(30)
            results.put(load_minari(ID).content_hash)
    except BaseException as error:
        barrier.abort()
        results.put(repr(error))
        raise


def test_processes_that_race_for_a_damaged_entry_all_get_the_data(stored):
    dataset, entry = stored
    context, rounds, racers = multiprocessing.get_context("fork"), 2 * len(FILES), 3
    barrier, results = context.Barrier(racers), context.Queue()
    processes = [
        context.Process(target=race, args=(entry, barrier, results, rounds)) for _ in range(racers)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(rounds * racers)]
    for process in processes:
        process.join(60)
    assert set(found) == {dataset.content_hash}
    assert_same(load_minari(ID), dataset)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_only_whole_entries_remain(stored):
    _, entry = stored
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_an_unwritable_folder_costs_nothing(minari_files, home):
    (home / "cache").write_text("a file where the folder should be")
    assert len(load_minari(minari_files.write()).transitions) == 5


def test_refused_data_are_not_cached(minari_files, home):
    id = minari_files.write(total_episodes=3)
    for _ in range(2):
        with pytest.raises(DataError):
            load_minari(id)
    assert not (home / "cache").exists()
    assert issubclass(DataError, UserError)


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_a_cache_home_that_is_no_path_counts_as_unset(monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache.cache_root() == Path("/somewhere/.cache/bcq_exp/transitions")
