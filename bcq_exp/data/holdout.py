"""Episodes that are held out from training, for the evaluation of policies."""

from __future__ import annotations

import numpy as np

from bcq_exp.data.transitions import DataError

SEED = 0  # of the choice: runs with equal data and share hold out the same episodes
FEWEST = 2  # episodes on either side


def held_out_episodes(id: str, num_episodes: int, share: float) -> np.ndarray:
    """Which of a data set's episodes are held out, (E,) bool.

    Args:
        id: the data set's id, for messages.
        share: the share of the episodes, rounded.

    Raises:
        DataError: if that leaves fewer than FEWEST of them on a side.
    """
    count = round(share * num_episodes)
    if not FEWEST <= count <= num_episodes - FEWEST:
        least = -(-100 * FEWEST // num_episodes) / 100
        fix = f"{least} to {1 - least:.2f}, or null" if num_episodes >= 2 * FEWEST else "null"
        raise DataError(
            f"dataset.holdout={share}: holds out {count} of the {num_episodes} episodes of {id}; "
            f"at least {FEWEST} must be held out and {FEWEST} left for training; give {fix}"
        )
    chosen = np.random.default_rng(SEED).permutation(num_episodes)[:count]
    is_held_out = np.zeros(num_episodes, dtype=bool)
    is_held_out[chosen] = True
    return is_held_out
