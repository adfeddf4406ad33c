"""Episodes kept from training: whole ones, the same each time, none in both parts."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from bcq_exp.data.datasets import (
    held_out_episodes,
    load_d4rl_hdf5,
    load_minari,
    load_pendulum,
)
from bcq_exp.data.transitions import DataError
from bcq_exp.selection.candidates import Evidence

LENGTHS = (3, 2, 4, 1, 5, 2, 3, 6)


@pytest.fixture
def stored(minari_files):
    return minari_files.write(lengths=LENGTHS, ends=("terminated", "truncated") * 4)


def episodes(dataset):
    """Each episode's (obs, rew), in order."""
    ends = np.cumsum(dataset.episode_lengths)[:-1]
    parts = (np.split(dataset.transitions.arrays()[name], ends) for name in ("obs", "rew"))
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_both_parts_together_are_the_set(share, stored):
    whole, split = load_minari(stored), load_minari(stored, holdout=share)
    is_held_out = held_out_episodes(stored, len(LENGTHS), share)
    assert is_held_out.sum() == round(share * len(LENGTHS))
    for part, chosen in ((split, ~is_held_out), (split.held_out, is_held_out)):
        assert len(part.transitions) == np.array(LENGTHS)[chosen].sum()
        expected = [e for e, wanted in zip(episodes(whole), chosen, strict=True) if wanted]
        for found, own in zip(episodes(part), expected, strict=True):
            assert all(map(np.array_equal, found, own))
        np.testing.assert_allclose(part.episode_returns, [rew.sum() for _, rew in expected])
        assert part.content_hash == whole.content_hash
    assert split.held_out.held_out is None and whole.held_out is None
    assert split.facts()["held_out"] == is_held_out.sum() and "held_out" not in whole.facts()


def test_the_choice_is_the_same_each_time_and_of_the_episodes_alone():
    once = held_out_episodes("a", 50, 0.2)
    assert np.array_equal(once, held_out_episodes("b", 50, 0.2))
    assert 0 < once[:25].sum() < 10, "not the first ones, nor the last"


@pytest.mark.parametrize(("count", "share"), [(8, 0.1), (8, 0.9), (3, 0.5)])
def test_too_few_episodes_on_a_side_are_refused(count, share):
    with pytest.raises(DataError, match=f"dataset.holdout={share}: holds out .* of the {count} ep"):
        held_out_episodes("my/set-v0", count, share)


def test_the_shares_that_a_refusal_offers_are_taken():
    for count in (4, 7, 12, 300):
        with pytest.raises(DataError) as said:
            held_out_episodes("a", count, 0.5 / count)
        low, high = str(said.value).split("give ")[1].split(", or")[0].split(" to ")
        for share in (float(low), float(high)):
            assert 2 <= held_out_episodes("a", count, share).sum() <= count - 2


def test_episodes_without_transitions_are_no_evidence(stored):
    whole = load_minari(stored)
    is_held_out = held_out_episodes(stored, len(LENGTHS), 0.25)
    rows = np.where(is_held_out, 0, whole.episode_rows)
    cut = replace(whole, episode_rows=rows, transitions=whole.transitions[: rows.sum()])
    with pytest.raises(DataError, match="dataset.holdout=0.25: splits .* one part has 0 episodes"):
        cut.without(0.25)


def test_steps_without_a_successor_are_of_no_part(tmp_path):
    rows = 30  # episodes of 5, 1, 4: what comes after their last steps is not known
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        file["observations"] = np.arange(rows)[:, None] * np.ones((rows, 11))
        file["actions"], file["rewards"] = np.zeros((rows, 3)), np.arange(rows, dtype=float)
        file["terminals"] = np.zeros(rows)
        ends = np.cumsum([5, 1, 4] * 3) - 1
        file["timeouts"] = np.isin(np.arange(rows), ends)
    path = str(tmp_path / "hopper.hdf5")
    whole = load_d4rl_hdf5(path, use_cache=False)
    lengths = np.diff(ends, prepend=-1)
    assert whole.episode_lengths.tolist() == lengths.tolist()
    assert whole.episode_rows.tolist() == (lengths - 1).tolist() and 0 in whole.episode_rows
    split = load_d4rl_hdf5(path, use_cache=False, holdout=0.4)
    found = [part.transitions.obs[:, 0] for part in (split, split.held_out)]
    assert sorted(np.concatenate(found)) == whole.transitions.obs[:, 0].tolist()
    for part in (whole, split.held_out):
        evidence = Evidence(part)
        firsts = ends - lengths + 1
        assert set(evidence.first_obs[:, 0]) <= set(firsts)
        assert len(evidence.first_obs) == (part.episode_rows > 0).sum()
        assert np.isin(evidence.first_obs[:, 0], part.transitions.obs[:, 0]).all()


def test_every_loader_takes_it(home):
    split = load_pendulum(num_steps=2000, holdout=0.25)
    assert len(split.held_out.episode_lengths) == 3
    assert len(split.transitions) + len(split.held_out.transitions) == 2000
