import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcq_exp.data import cache
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", ["obs.npy", "truncated.npy"])
def test_a_broken_entry_is_read_again_and_rewritten(stored, reads, damage, name):
    dataset, entry = stored
    damage(entry / name)
    assert_same(load_minari(ID), dataset)
    assert_same(load_minari(ID), dataset)
    assert len(reads) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"leaves": 3}'])
def test_broken_metadata_are_rewritten(stored, reads, text):
    dataset, entry = stored
    (entry / "meta.json").write_text(text)
    assert_same(load_minari(ID), dataset)
    assert json.loads((entry / "meta.json").read_text())["content_hash"] == dataset.content_hash


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
