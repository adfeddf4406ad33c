"""Random transitions of a benchmark's dimensions, the same for every contestant."""

from __future__ import annotations

import numpy as np

from tests.bench.sizes import EPISODE_STEPS, NUM_TRANSITIONS, Sizes


def transitions(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """NUM_TRANSITIONS rows in episodes of EPISODE_STEPS, by Gymnasium's names, in float32."""
    rng = np.random.default_rng(seed)
    shape = (NUM_TRANSITIONS, sizes.obs_dim)
    truncated = np.zeros(NUM_TRANSITIONS, bool)
    truncated[EPISODE_STEPS - 1 :: EPISODE_STEPS] = True
    act = rng.uniform(-1, 1, (NUM_TRANSITIONS, sizes.act_dim)) * sizes.max_action
    return {
        "obs": rng.standard_normal(shape, dtype=np.float32),
        "act": act.astype(np.float32),
        "rew": rng.standard_normal(NUM_TRANSITIONS, dtype=np.float32),
        "terminated": np.zeros(NUM_TRANSITIONS, bool),
        "truncated": truncated,
        "obs_next": rng.standard_normal(shape, dtype=np.float32),
    }
