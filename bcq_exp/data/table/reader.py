"""Reading a table of logged data into a :class:`Contents`, in two passes over its files.

A row is a step: an observation, the action that was taken, its reward. The next observation is the
next row's of the same episode. The first pass checks the rows and finds the episodes, categories
and statistics. The second writes the transitions. Neither holds more than a batch of the table in
memory, and the arrays of a large set are files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.contents import Contents, episode_sums
from bcq_exp.data.spaces import act_size
from bcq_exp.data.table.action_columns import ActionOptions, Actions
from bcq_exp.data.table.column_choice import SINGLE, Columns
from bcq_exp.data.table.observation_columns import Feature
from bcq_exp.data.table.overview import summarize
from bcq_exp.data.table.scan import REWARDED, Scan
from bcq_exp.data.table.sources import TableFiles
from bcq_exp.data.table.steps import Steps
from bcq_exp.data.transitions import LARGE, DataError, Transitions, content_hash
from bcq_exp.data.validation import check_not_empty


def read_table(
    files: TableFiles,
    columns: Columns,
    asked: ActionOptions,
    empty_reward: float | None,
    scratch: Path,
) -> Contents:
    """Read and validate a table's files.

    Args:
        columns: the roles of its columns.
        asked: the options for actions.
        empty_reward: the reward of rows without one.
        scratch: a folder for the arrays of a large set, which are memory-mapped.

    Raises:
        DataError: one line that names column, row and file.
    """
    if columns.episode is None and not columns.flags and len(files.paths) == 1:
        raise DataError(
            "dataset.episode=null: no column has a usual name for episodes or their ends; give "
            "dataset.episode, dataset.terminated or dataset.truncated, or a file for each episode"
        )
    scan = Scan(files, columns, empty_reward)
    check_not_empty(files.data, len(scan.states))
    features, actions = scan.observations.features(), scan.taken.actions(asked)
    steps = Steps.of(scan)
    size = sum(feature.size for feature in features)
    arrays, dropped = _fill(files, scan, steps, features, actions, scratch)
    behaviour_prob = arrays.pop("behaviour_prob", None)
    transitions = Transitions(
        **arrays, terminated=steps.terminated[steps.kept], truncated=steps.truncated[steps.kept]
    )
    returns = np.zeros(len(steps.lengths))
    has_rows = steps.rows > 0  # no sum is taken over none
    returns[has_rows] = episode_sums(transitions.rew, steps.rows[has_rows])
    returns[steps.lengths > steps.rows] += dropped
    return Contents(
        transitions=transitions,
        observation_space=Box(-np.inf, np.inf, (size,), np.float32),
        action_space=actions.space,
        episode_lengths=steps.lengths,
        episode_rows=steps.rows,
        episode_returns=returns,
        content_hash=content_hash(transitions, _meaning(features, actions)),
        notes=(*steps.notes, *scan.notes(), *actions.notes),
        behaviour_prob=behaviour_prob,
        columns=_facts(columns, features, actions),
        summary=summarize(files, scan, steps, returns, actions),
    )


def _fill(
    files: TableFiles,
    scan: Scan,
    steps: Steps,
    features: Sequence[Feature],
    actions: Actions,
    scratch: Path,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Do the second pass: write transitions; return rewards of dropped rows as well.

    Raises:
        DataError: an action that is not in its space.
    """
    columns = scan.columns
    arrays = _allocate(
        int(np.count_nonzero(steps.kept)),
        sum(feature.size for feature in features),
        act_size(actions.space),
        columns.behaviour_prob is not None,
        scratch,
    )
    dropped: list[np.ndarray] = []
    start = done = done_next = 0
    for rows in files.rows(columns.all):
        part = slice(start, start + len(rows))
        has_action, kept = steps.has_action[part], steps.kept[part]
        new = slice(done, done + int(np.count_nonzero(kept)))
        obs = np.concatenate([feature.vectors(rows) for feature in features], 1)
        arrays["obs"][new] = obs[kept]
        arrays["act"][new] = actions.vectors(rows, has_action)[kept]
        obs_next = np.repeat(obs, _times_next(steps, part), axis=0)
        arrays["obs_next"][done_next : done_next + len(obs_next)] = obs_next
        rew = np.nan_to_num(rows.numbers(columns.reward), nan=scan.empty_reward or 0.0)
        arrays["rew"][new] = rew[kept]
        dropped.append(rew[has_action & ~kept])
        if steps.only_last:
            rows.refuse(
                has_action & ~kept & (rew != 0),
                columns.reward,
                "has a value only in the last row of each episode, and the episode is cut",
                ": that row has no next observation and is dropped, its reward too; give "
                "dataset.terminated, a column or true",
            )
            later = ~has_action & (scan.states[part] & REWARDED > 0)  # of the step before it
            arrays["rew"][done + np.cumsum(kept)[later] - 1] = rew[later]
        if (column := columns.behaviour_prob) is not None:
            prob = rows.numbers(column)
            if isinstance(actions.space, Discrete):  # densities of continuous ones may be above
                remedy = "; a probability is at most 1"
                rows.refuse(has_action & (prob > 1), column, "is {}", remedy)
            arrays["behaviour_prob"][new] = prob[kept]
        start, done, done_next = part.stop, new.stop, done_next + len(obs_next)
    return arrays, np.concatenate(dropped).astype(np.float32)


def _times_next(steps: Steps, part: slice) -> np.ndarray:
    """How often each row is the successor of a transition: of the row before, or of itself if it
    is terminated."""
    before = slice(max(part.start - 1, 0), part.stop - 1)
    is_next = np.zeros(part.stop - part.start, np.int64)
    is_next[int(part.start == 0) :] = steps.kept[before] & steps.has_next[before]
    return is_next + (steps.kept[part] & ~steps.has_next[part])


def _allocate(
    count: int, obs_size: int, act_size: int, has_prob: bool, scratch: Path
) -> dict[str, np.ndarray]:
    """Make the arrays of ``count`` transitions: those of a large set are files."""
    shapes: dict[str, tuple[int, ...]] = {
        "obs": (count, obs_size),
        "obs_next": (count, obs_size),
        "act": (count, act_size),
        "rew": (count,),
    }
    if has_prob:
        shapes["behaviour_prob"] = (count,)
    is_large = 4 * sum(int(np.prod(shape)) for shape in shapes.values()) > LARGE
    return {
        name: _empty(scratch / f"{name}.npy" if is_large else None, shape)
        for name, shape in shapes.items()
    }


def _empty(path: Path | None, shape: tuple[int, ...]) -> np.ndarray:
    """Make an array to write to: in memory, or in a fully allocated file."""
    if path is None:
        return np.empty(shape, np.float32)
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk raises here, instead of a signal later
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _meaning(features: Sequence[Feature], actions: Actions) -> str:
    """Return the categories, which give the numbers their meaning; empty for plain numbers."""
    categories: list[Any] = [feature.categories for feature in features if feature.categories]
    first = getattr(actions.space, "start", 0)
    if actions.values != tuple((first + i,) for i in range(len(actions.values))):
        categories.append(actions.values)
    return str(categories) if categories else ""


def _facts(columns: Columns, features: Sequence[Feature], actions: Actions) -> dict[str, Any]:
    """Describe the columns in plain values."""
    values = [[*value] if len(value) > 1 else value[0] for value in actions.values]
    return {
        "observations": [feature.facts() for feature in features],
        "actions": actions.facts(),
        "action_values": values or None,
        **{key: getattr(columns, key) for key in SINGLE},
    }
