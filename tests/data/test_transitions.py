import pickle

import numpy as np
import pytest

from bcq_exp.data.transitions import Transitions, content_hash


def make(n: int = 5, dtype: type = np.float32, **changes: np.ndarray) -> Transitions:
    arrays = {
        "obs": np.arange(2 * n, dtype=dtype).reshape(n, 2),
        "act": np.linspace(-1, 1, n, dtype=dtype)[:, None],
        "rew": np.arange(n, dtype=dtype),
        "terminated": np.arange(n) == n - 1,
        "truncated": np.zeros(n, bool),
        "obs_next": np.arange(2 * n, dtype=dtype).reshape(n, 2) + 2,
    }
    return Transitions(**{**arrays, **changes})


def test_lengths_and_ranks_are_checked():
    with pytest.raises(ValueError, match="rew has 4 rows, obs has 5"):
        make(rew=np.zeros(4))
    with pytest.raises(ValueError, match="act must have rank 2"):
        make(act=np.zeros(5))
    with pytest.raises(ValueError, match="obs_next has shape"):
        make(obs_next=np.zeros((5, 3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_dtype_is_kept_and_others_become_float32(dtype):
    assert make(dtype=dtype).obs.dtype == dtype
    assert make(rew=np.arange(5)).rew.dtype == np.float32
    assert make(terminated=np.array([0, 0, 0, 0, 1])).terminated.dtype == bool


def test_arrays_are_read_only_also_after_pickling_and_the_callers_is_not():
    rewards = np.zeros(5, np.float32)
    transitions = make(rew=rewards)
    for one in (transitions, pickle.loads(pickle.dumps(transitions))):
        for array in one.arrays().values():
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    rewards[0] = 1.0


def test_indexing_keeps_rows_together():
    transitions = make()
    for rows in (slice(1, 4), np.array([3, 0, 3]), transitions.rew > 1):
        part = transitions[rows]
        assert np.array_equal(part.obs_next, part.obs + 2)
        assert np.array_equal(part.rew, transitions.rew[rows])
    assert len(transitions[2:4]) == 2


def test_sample_is_uniform_with_replacement_and_seeded():
    transitions = make()
    sample = transitions.sample(5000, np.random.default_rng(0))
    assert np.array_equal(sample.rew, transitions.sample(5000, np.random.default_rng(0)).rew)
    # 5 sigma of a binomial share
    counts = np.bincount(sample.rew.astype(int), minlength=5)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(5000 * 0.2 * 0.8))
    assert len(transitions.sample(7)) == 7


def test_replace_changes_only_the_named():
    changed = make().replace(rew=np.ones(5))
    assert np.all(changed.rew == 1)
    assert np.array_equal(changed.obs, make().obs)


def test_content_hash_sees_every_array_dtype_and_order():
    reference = content_hash(make())
    assert content_hash(make()) == reference
    # recorded in every run's folder: another hash of the same data is another data set
    assert reference == "7c31708408fd0412065119c6066d25c2a9f43cb0c54412c5ac751f2a020e5566"
    others = [make(dtype=np.float64), make()[::-1], make(truncated=np.ones(5, bool))]
    others += [make(obs_next=make().obs_next + 1)]
    assert len({reference, *(content_hash(other) for other in others)}) == 5
