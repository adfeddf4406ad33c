"""Which numbers float32 makes stand still, and which it does not need."""

import numpy as np
import pytest

from bcq_exp.data.resolution import Resolution

NOISE = np.random.default_rng(0).normal(size=600)
CLOCK = np.concatenate([np.arange(20.0), np.arange(20.0) + 300])  # with a pause


def share_lost(*episodes):
    """The share of changes that a note reports, in percent; ``None`` without a note."""
    resolution = Resolution()
    for episode in episodes:
        resolution.see({"x": np.asarray(episode)})
    notes = resolution.notes()
    return int(notes[0].partition("%")[0].rpartition(" ")[2]) if notes else None


@pytest.mark.parametrize(
    ("episodes", "share"),
    [
        ([1.7e9 + 1e5 * episode + CLOCK for episode in range(6)], 97),
        ([1_700_000_000 + np.arange(40)], 100),
        ([2e8 + NOISE], 100),
        ([1.7e9 + 64 + NOISE], 100),  # it jumps between two numbers of float32
        ([np.where(np.arange(600) % 50, 0, 1e6) + 1.7e9 + NOISE], None),  # beside its movement
        ([1e6 + np.cumsum(NOISE)], None),
        ([1e6 + (np.arange(600) == 300)], None),  # changes rarely
        ([np.where(np.arange(600) // 50 % 2, 1e3, 2e3) + 1e-5 * NOISE], None),
        ([0.1 + np.spacing(0.1) * np.round(NOISE)], None),  # errors of rounding
        ([(2e8 + NOISE).astype(np.float32)], None),  # recorded so: nothing is lost in training
    ],
)
def test_a_column_is_noted_if_most_of_its_movement_is_lost(episodes, share):
    assert share_lost(*episodes) == share
