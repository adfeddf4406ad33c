"""The policies to choose among, and the data for their evaluation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Discrete

from bcq_exp.analysis.run_folders import run_names
from bcq_exp.config.identity import differences, identity
from bcq_exp.config.schema import source
from bcq_exp.data.contents import episode_sums
from bcq_exp.data.datasets import (
    Dataset,
    load_d4rl_hdf5,
    load_minari,
    load_pendulum,
    load_table,
)
from bcq_exp.data.online import explore
from bcq_exp.data.task import load_task
from bcq_exp.errors import UserError, first_line
from bcq_exp.selection.importance import are_known, shares_uncut
from bcq_exp.training.evaluation import Agent
from bcq_exp.training.record import RunRecord
from bcq_exp.training.restore import load_run

LOADERS = {
    f"{load.__module__}.{load.__name__}": load
    for load in (load_minari, load_pendulum, load_d4rl_hdf5, load_table)
}
ONLINE = f"{explore.__module__}.{explore.__name__}"
ROWS_AT_ONCE = 16384  # of an array, in a call of a network

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """The policy in a run's newest checkpoint.

    Args:
        status: the run's status: completed, running, interrupted or failed.
        returns: the episodes' returns of the evaluation at that step (E,); ``None`` without one.
        discounted_return: their mean, discounted by ``gamma`` of the run.
    """

    name: str
    folder: Path
    step: int
    status: str
    agent: Agent
    returns: np.ndarray | None
    discounted_return: float | None

    @property
    def return_mean(self) -> float | None:
        return None if self.returns is None else float(self.returns.mean())


@dataclass(frozen=True)
class Evidence:
    """Recorded steps for the evaluation of policies.

    Actions of all policies are in the environment's units (A = its dimensions), or, of n discrete
    ones, probabilities (A = n).

    Args:
        training: the data that the policies learned from.
    """

    training: Dataset

    @property
    def is_held_out(self) -> bool:
        """Whether the episodes were held out from training."""
        return self.training.held_out is not None

    @property
    def dataset(self) -> Dataset:
        """The held-out episodes, or all if none were held out."""
        return self.training.held_out or self.training

    @cached_property
    def episode_rows(self) -> np.ndarray:
        """The transitions of each of the E episodes that have any."""
        rows = self.dataset.episode_rows
        return rows[rows > 0]

    @cached_property
    def first_obs(self) -> np.ndarray:
        """The first observations of these episodes (E, O)."""
        starts = np.cumsum(self.episode_rows) - self.episode_rows
        return self.dataset.transitions.obs[starts]

    @property
    def num_actions(self) -> int | None:
        """The number of discrete actions; ``None`` for continuous ones."""
        space = self.dataset.action_space
        return int(space.n) if isinstance(space, Discrete) else None

    @cached_property
    def act(self) -> np.ndarray:
        """The recorded actions (N, A); a discrete action taken has probability 1."""
        act = self.dataset.transitions.act
        if self.num_actions is None:
            return act
        return np.eye(self.num_actions, dtype=np.float32)[act[:, 0].astype(int)]

    @property
    def step_numbers(self) -> np.ndarray:
        """The number of steps of its episode before each transition (N,)."""
        return np.concatenate([np.arange(rows) for rows in self.episode_rows])

    def kept(self, horizon: int | None) -> np.ndarray:
        """Whether each transition is among its episode's first ``horizon`` (N,)."""
        steps = self.step_numbers
        return np.ones(len(steps), dtype=bool) if horizon is None else steps < horizon

    @property
    def behaviours_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the behaviour policy's actions after each transition (N, A), and at first (E, A).

        After an episode's last transition it is unknown: the action before is used.
        """
        act, starts = self.act, self.step_numbers == 0
        is_last = np.append(starts[1:], True)
        after = np.where(is_last[:, None], act, np.roll(act, -1, axis=0))
        return after, act[starts]

    @cached_property
    def is_cut(self) -> np.ndarray:
        """Whether each episode was truncated rather than terminated (E,)."""
        return ~self.dataset.transitions.terminated[np.cumsum(self.episode_rows) - 1]

    @cached_property
    def num_known(self) -> int:
        """The number of steps that enough episodes reach without being cut."""
        if not self.is_cut.any():
            return sys.maxsize  # rewards after termination are 0
        return int(are_known(shares_uncut(self.episode_rows, self.is_cut)).sum())

    def returns(self, gamma: float, horizon: int | None) -> np.ndarray:
        """Return the recorded episodes' discounted returns (E,), of at most ``horizon`` steps."""
        weights = self.kept(horizon) * gamma**self.step_numbers
        return episode_sums(self.dataset.transitions.rew * weights, self.episode_rows)


def load_candidates(
    folders: Sequence[Path], *, trusted: bool = False
) -> tuple[list[Candidate], Evidence]:
    """Load the policies of runs, and the data that all of them learned from.

    Args:
        trusted: whether the runs' files may name third-party code.

    Raises:
        UserError: as :func:`load_evidence` and :func:`load_candidate`.
    """
    evidence = load_evidence(folders, trusted=trusted)
    names = run_names(folders)
    return [
        load_candidate(folder, name, trusted=trusted)
        for folder, name in zip(folders, names, strict=True)
    ], evidence


def load_evidence(folders: Sequence[Path], *, trusted: bool) -> Evidence:
    """Load the data that runs learned from, as their summaries name them.

    Raises:
        UserError: for runs of several data sets or shares held out, a run that collected its own
            data, data of another content, or code that is not trusted.
    """
    summaries = {folder: RunRecord(folder).required_summary() for folder in folders}
    nodes = {folder: source(each["config"]) for folder, each in summaries.items()}
    first = nodes[folders[0]]
    for folder, node in nodes.items():
        if changed := differences(identity({"dataset": first}), identity({"dataset": node})):
            raise UserError(
                f"{folder}: was trained on other data than {folders[0]}: "
                f"{', '.join(changed.values())}; select among runs of one data set"
            )
    dataset = _load(first, folders[0], trusted)
    for folder in folders:
        if summaries[folder]["dataset"].get("content_hash") != dataset.content_hash:
            raise UserError(
                f"{folder}: the content of {dataset.id} has changed since this run was trained"
            )
    return Evidence(dataset)


def load_candidate(
    folder: Path, name: str, *, trusted: bool = False, config: Mapping[str, Any] | None = None
) -> Candidate:
    """Load a run's policy.

    Args:
        trusted, config: as :func:`bcq_exp.training.restore.load_run` takes them.

    Raises:
        UserError: for a checkpoint that is missing or damaged, or code that is not trusted.
    """
    run = load_run(folder, "cpu", trusted=trusted, config=config)
    record = RunRecord(folder)
    summary = record.required_summary()
    episodes = record.episodes()
    at = np.flatnonzero(episodes["step"] == run.step) if episodes else np.empty(0, dtype=int)
    returns = episodes["returns"][at[-1]] if len(at) else np.full(1, np.nan)
    rows = record.rows("eval", summary["record"])
    row = next((row for row in rows if row.get("step") == run.step), {})
    return Candidate(
        name=name,
        folder=folder,
        step=run.step,
        status=summary["status"],
        agent=run.agent,
        returns=returns if np.isfinite(returns).all() else None,
        discounted_return=row.get("discounted_return_mean"),
    )


def policies_actions(
    candidates: Sequence[Candidate], evidence: Evidence, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the actions of P policies after each transition (P, N, A), and at first (P, E, A)."""

    def of(one: Candidate) -> tuple[np.ndarray, ...]:
        obs_next = evidence.dataset.transitions.obs_next
        return tuple(
            policy_actions(one.agent, obs, evidence, seed) for obs in (obs_next, evidence.first_obs)
        )

    after, first = zip(*by_one_thread_each(of, candidates), strict=True)
    return np.stack(after), np.stack(first)


def by_one_thread_each(function: Callable[[S], T], policies: Iterable[S]) -> list[T]:
    """Call a function of each policy, one thread each: results do not depend on the cores."""
    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
    ) as threads:
        return list(threads.map(function, policies))


def policy_actions(agent: Agent, obs: np.ndarray, evidence: Evidence, seed: int) -> np.ndarray:
    """Return a policy's actions in the form of the evidence: (N, O) -> (N, A), float32.

    A policy that samples continuous actions is sampled once for each.
    """
    generator = torch.Generator().manual_seed(seed)

    def act(rows: np.ndarray) -> np.ndarray:
        is_discrete = evidence.num_actions is not None
        return agent.action_probabilities(rows) if is_discrete else agent.act(rows, generator)

    return in_parts(act, obs).astype(np.float32)


def in_parts(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Apply a function of rows to arrays (N, ...), ROWS_AT_ONCE at a time; (N, ...)."""
    firsts = range(0, len(arrays[0]), ROWS_AT_ONCE)
    parts = (tuple(array[i : i + ROWS_AT_ONCE] for array in arrays) for i in firsts)
    return np.concatenate([function(*part) for part in parts])


def _load(node: Mapping[str, Any], folder: Path, trusted: bool) -> Dataset:
    """Load a run's ``dataset`` node; unless it is trusted, by bcq_exp's loaders only."""
    keywords = dict(node)
    target, env = str(keywords.pop("_target_", None)), keywords.get("env")
    if target == ONLINE:
        raise UserError(f"{folder}: collected its own data; give runs trained on a data set")
    if trusted:
        dataset = load_task(dict(node))
        if isinstance(dataset, Dataset):
            return dataset
        raise UserError(f"{folder}: dataset._target_={target} does not return a Dataset")
    if target not in LOADERS:
        raise _untrusted(folder, f"_target_={target}")
    if ":" in str(env or ""):  # its module would be imported
        raise _untrusted(folder, f"env={env}")
    try:
        return LOADERS[target](**keywords)
    except TypeError as error:  # for unknown keywords
        raise UserError(f"{folder}: its data set cannot be loaded ({first_line(error)})") from error


def _untrusted(folder: Path, said: str) -> UserError:
    return UserError(
        f"{folder}: its data come from dataset.{said}, which is custom code; give trust=true to "
        "run it if you trust the source of the folder"
    )
