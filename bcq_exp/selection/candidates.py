"""The policies to choose among, and the data that they are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from bcq_exp.config.meaning import flattened
from bcq_exp.data.datasets import Dataset
from bcq_exp.errors import UserError
from bcq_exp.training.evaluation import Agent
from bcq_exp.training.record import RunRecord
from bcq_exp.training.restore import load_run

LOADERS = "bcq_exp.data.datasets."
ROWS_AT_ONCE = 16384  # of observations, that a policy is asked for


@dataclass(frozen=True)
class Candidate:
    """A run's policy as its newest checkpoint has it.

    Args:
        returns: of the evaluation at that step, an episode each (E,); ``None`` without one.
        discounted_return: mean of these by ``gamma``, the run's own discount.
    """

    name: str
    folder: Path
    step: int
    agent: Agent
    returns: np.ndarray | None
    discounted_return: float | None

    @property
    def return_mean(self) -> float | None:
        return None if self.returns is None else float(self.returns.mean())


@dataclass(frozen=True)
class Evidence:
    """Recorded steps by which policies are judged, actions in the environment's units.

    Args:
        dataset: what they are of: the held-out episodes, or all where none were held out.
        first_obs: observations that episodes began with (E, O).
        is_held_out: whether training has not seen them.
    """

    dataset: Dataset
    first_obs: np.ndarray
    is_held_out: bool

    @classmethod
    def of(cls, dataset: Dataset) -> Evidence:
        """The held-out episodes of a data set, or else all of it."""
        judged = dataset.held_out or dataset
        starts = np.cumsum(judged.episode_lengths) - judged.episode_lengths
        return cls(judged, judged.transitions.obs[starts], dataset.held_out is not None)


def load_candidates(
    folders: Sequence[Path], *, trusted: bool = False, are_own: bool = False
) -> tuple[list[Candidate], Evidence]:
    """The policies of runs, and the data that all of them learnt from.

    Args:
        trusted: whether what the runs say may name code beyond ours.
        are_own: whether their summaries say what the user's own configuration says.

    Raises:
        UserError: for runs of several data sets or shares held out, a run that collected its own
            data, a checkpoint that is missing, or code that is not trusted.
    """
    told = {folder: RunRecord(folder).told_summary() for folder in folders}
    nodes = {folder: each["config"]["dataset"] for folder, each in told.items()}
    first = nodes[folders[0]]
    for folder, node in nodes.items():
        if node != first:
            raise UserError(
                f"{folder}: learnt from other data than {folders[0]} ({_difference(node, first)}); "
                "policies are compared on one data set"
            )
    dataset = _load(first, folders[0], trusted or are_own)
    for folder in folders:
        if told[folder]["dataset"]["content_hash"] != dataset.content_hash:
            raise UserError(
                f"{folder}: learnt from data of another content than {dataset.id} has now"
            )
    candidates = [
        _candidate(folder, trusted, told[folder]["config"] if are_own else None)
        for folder in folders
    ]
    return candidates, Evidence.of(dataset)


def policies_actions(
    candidates: Sequence[Candidate], evidence: Evidence, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """What P policies do after each of N transitions (P, N, A), and at first (P, E, A)."""
    after, first = (
        np.stack([actions(each.agent, obs, seed) for each in candidates])
        for obs in (evidence.dataset.transitions.obs_next, evidence.first_obs)
    )
    return after, first


def actions(agent: Agent, obs: np.ndarray, seed: int) -> np.ndarray:
    """What a policy does, in the environment's units: (N, O) -> (N, A), float32.

    One that draws is asked once for each.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [
        agent.act(obs[first : first + ROWS_AT_ONCE], generator)
        for first in range(0, len(obs), ROWS_AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float32)


def values(agent: Agent, obs: np.ndarray, act: np.ndarray) -> np.ndarray | None:
    """What a run's own critic takes Q(s, a) to be, (N,); ``None`` where it has none."""
    parts = []
    for first in range(0, len(obs), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        found = agent.value(obs[rows], act[rows])
        if found is None:
            return None
        parts.append(found)
    return np.concatenate(parts)


def _candidate(folder: Path, trusted: bool, config: Mapping[str, Any] | None) -> Candidate:
    run = load_run(folder, "cpu", trusted=trusted, config=config)
    record = RunRecord(folder)
    episodes = record.episodes()
    at = np.flatnonzero(episodes["step"] == run.step) if episodes else np.empty(0, dtype=int)
    row = next((row for row in record.rows("eval") if row["step"] == run.step), {})
    return Candidate(
        name=folder.name,
        folder=folder,
        step=run.step,
        agent=run.agent,
        returns=episodes["returns"][at[-1]] if len(at) else None,
        discounted_return=row.get("discounted_return_mean"),
    )


def _load(node: Mapping[str, Any], folder: Path, trusted: bool) -> Dataset:
    target = str(node.get("_target_"))
    if not (target.startswith(LOADERS) or trusted):
        raise UserError(
            f"{folder}: its data come from dataset._target_={target}, which is none of ours; "
            "--trust calls it, if you trust where the folder comes from"
        )
    dataset = instantiate(dict(node), _recursive_=False)
    if not isinstance(dataset, Dataset):
        raise UserError(f"{folder}: collected its data itself; give runs of a data set")
    return dataset


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    mine, theirs = dict(flattened(one)), dict(flattened(other))
    key = next(k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k))
    return f"dataset.{key}={mine.get(key)}, not {theirs.get(key)}"
