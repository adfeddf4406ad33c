"""The share of policies' actions that the data support."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from bcq_exp.data.transitions import Transitions
from bcq_exp.selection.critics import Units

LEAST_PROBABILITY = 0.01  # least probability of an action that the data support
NUM_NEIGHBOURS = 10  # nearest recorded states whose actions are compared
LEVEL = 0.95  # share of recorded actions that count as supported
MOST_RECORDED, MOST_ASKED = 50_000, 5_000  # states, drawn where there are more


def discrete_support(policy: np.ndarray, behaviour: np.ndarray) -> float:
    """The probability that a policy's action is one that the behaviour takes with at least
    LEAST_PROBABILITY in that state; both are probabilities (N, n) in recorded states."""
    return float((policy * (behaviour >= LEAST_PROBABILITY)).sum(1).mean())


class NearestActions:
    """Support of continuous actions: a similar action was recorded in a nearby state.

    The distance of an action in a state is that to the nearest action in the NUM_NEIGHBOURS nearest
    recorded states. An action is supported if its distance is at most the LEVEL quantile of the
    distances of recorded actions of other episodes.

    Attributes:
        obs, act: the states in which policies are compared (n, O), and the recorded actions there.

    Args:
        recorded, asked: steps to search, and steps in whose states policies are compared; of more
            than MOST_RECORDED and MOST_ASKED a sample is drawn by ``seed``.
        units: scales observations and actions.
    """

    def __init__(
        self, recorded: Transitions, asked: Transitions, units: Units, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        recorded, asked = (
            t[np.sort(rng.choice(len(t), min(len(t), most), replace=False))]
            for t, most in ((recorded, MOST_RECORDED), (asked, MOST_ASKED))
        )
        tree = cKDTree(units.obs(recorded.obs))
        count = min(NUM_NEIGHBOURS, len(recorded))
        near = tree.query(units.obs(asked.obs), count, workers=-1)[1].reshape(len(asked), count)
        self._units, self._near = units, units.act(recorded.act)[near]  # (n, K, A)
        self.obs, self.act = asked.obs, asked.act
        self._limit = np.quantile(self._distances(asked.act), LEVEL)

    def share(self, act: np.ndarray) -> float:
        """The share of supported actions (n, A), in the environment's units, in states ``obs``."""
        return float((self._distances(act) <= self._limit).mean())

    def _distances(self, act: np.ndarray) -> np.ndarray:
        apart = self._near - self._units.act(act)[:, None]
        return np.linalg.norm(apart, axis=-1).min(1)
