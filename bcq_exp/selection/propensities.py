"""Estimate the behaviour policy of discrete actions, and its calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bcq_exp.algorithm.mlp import MLP
from bcq_exp.selection.candidates import in_parts
from bcq_exp.training.evaluation import ObsNormalizer

BATCH_SIZE, LR = 256, 3e-3
MOST_STEPS = 10_000
CHECK_EVERY, PATIENCE = 50, 8  # steps, and checks without progress after which training ends
VALIDATION = 0.2  # share of the episodes for validation
MOST_VALIDATED = 50_000  # of their steps
NUM_BINS = 10


@dataclass(frozen=True)
class BehaviourModel:
    """A small network for b(a | s).

    Args:
        validation: the episodes that were not used for training.
    """

    normalizer: ObsNormalizer
    network: MLP
    validation: np.ndarray

    @torch.no_grad()
    def probabilities(self, obs: np.ndarray) -> np.ndarray:
        """Return the probability of each action, (N, O) -> (N, n), float64."""

        def probabilities(rows: np.ndarray) -> np.ndarray:
            logits = self.network(torch.as_tensor(self.normalizer(rows)))
            return logits.double().softmax(-1).numpy()

        return in_parts(probabilities, obs)


@dataclass(frozen=True)
class Calibration:
    """How well probabilities of actions agree with the actions that were taken.

    Args:
        num_episodes: the episodes of the measurement.
        accuracy: how often the most probable action was taken.
        log_loss: the mean of -log b(a | s).
        marginal_log_loss: the log loss of probabilities that ignore the state.
        error: expected calibration error (Guo et al. 2017, arXiv:1706.04599): how far the
            probability of the most probable action is from how often it was taken, on average.
        reliability: in each of NUM_BINS ranges of that probability: its mean, how often the action
            was taken, and the number of steps.
    """

    num_episodes: int
    accuracy: float
    log_loss: float
    marginal_log_loss: float
    error: float
    reliability: tuple[tuple[float, float, int], ...]


def fit_behaviour(
    obs: np.ndarray,
    act: np.ndarray,
    episode_rows: np.ndarray,
    num_actions: int,
    hidden_sizes: Sequence[int],
    seed: int = 0,
) -> BehaviourModel:
    """Fit by cross-entropy, with early stopping on a fifth of the episodes.

    Args:
        obs, act: recorded observations (N, O), and indices of actions (N,).
        episode_rows: steps of each of at least two episodes (E,).
    """
    rng = np.random.default_rng(seed)
    num_kept = max(1, round(VALIDATION * len(episode_rows)))
    validation = np.sort(rng.permutation(len(episode_rows))[:num_kept])
    is_kept = np.repeat(np.isin(np.arange(len(episode_rows)), validation), episode_rows)
    normalizer = ObsNormalizer.of(obs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(obs.shape[1], hidden_sizes, num_actions)

    def loss(rows: np.ndarray) -> Tensor:
        logits = network(torch.as_tensor(normalizer(obs[rows])))
        return cross_entropy(logits, torch.as_tensor(act[rows], dtype=torch.long))

    training, held = np.flatnonzero(~is_kept), np.flatnonzero(is_kept)
    held = rng.choice(held, min(len(held), MOST_VALIDATED), replace=False)
    _train(network, loss, training, held, rng)
    return BehaviourModel(normalizer, network, validation)


def calibration(probabilities: np.ndarray, act: np.ndarray, num_episodes: int) -> Calibration:
    """Measure the calibration of b(a | s) (N, n), given indices of actions taken (N,)."""
    rows = np.arange(len(act))
    top, confidence = probabilities.argmax(1), probabilities.max(1)
    is_right = top == act
    shares = np.bincount(act) / len(act)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    reliability = tuple(
        (float(confidence[own].mean()), float(is_right[own].mean()), int(own.sum()))
        for own in (bins == k for k in range(NUM_BINS))
        if own.any()
    )
    error = sum(count * abs(said - found) for said, found, count in reliability) / len(act)
    return Calibration(
        num_episodes=num_episodes,
        accuracy=float(is_right.mean()),
        log_loss=float(-np.log(np.maximum(probabilities[rows, act], 1e-300)).mean()),
        marginal_log_loss=float(-np.log(shares[act]).mean()),
        error=float(error),
        reliability=reliability,
    )


def _train(
    network: MLP,
    loss: Callable[[np.ndarray], Tensor],
    training: np.ndarray,
    held: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Train until the validation loss stops falling, and keep the best weights."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    best, least, since = copy.deepcopy(network.state_dict()), float("inf"), 0
    for step in range(MOST_STEPS):
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                found = float(loss(held))
            since += 1
            if found < least:
                best, least, since = copy.deepcopy(network.state_dict()), found, 0
            if since > PATIENCE:
                break
        optimizer.zero_grad()
        loss(training[rng.integers(len(training), size=BATCH_SIZE)]).backward()
        optimizer.step()
    network.load_state_dict(best)
