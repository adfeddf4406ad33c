"""Decide which rows of a table are steps and transitions, after the first pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcq_exp.data.table.scan import (
    NONZERO,
    REWARDED,
    START,
    STEP,
    TERMINATED,
    TRUNCATED,
    Scan,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """The roles of rows; arrays are ``(N,)`` over the rows.

    Args:
        has_action: the row is a step, not only the observation after the last.
        kept: it becomes a transition.
        has_next: the next row is of the same episode.
        terminated, truncated: the flags of transitions.
        only_last: each episode has its reward in its last row only, and 0 before it.
        lengths: steps of each episode ``(E,)``, at least one.
        rows: transitions of each episode ``(E,)``.
        num_cut: episodes that were truncated.
        notes: sentences on irregularities of the episodes.
    """

    has_action: np.ndarray
    kept: np.ndarray
    has_next: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    only_last: bool
    lengths: np.ndarray
    rows: np.ndarray
    num_cut: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, scan: Scan) -> Steps:
        """Find the steps of a table.

        Raises:
            DataError: rows without a defined order, or missing rewards.
        """
        columns, has_action = scan.columns, scan.has(STEP)
        starts = np.flatnonzero(scan.has(START))
        last = np.append(starts[1:], len(has_action)) - 1
        has_next = np.ones(len(has_action), bool)
        has_next[last] = False
        if (gap := ~has_action & has_next).any():
            raise scan.error(
                f"column {columns.actions[0]!r} is empty in {scan.place(np.argmax(gap))}; only the "
                "last row of an episode may have no action: it is the observation after the last "
                "step"
            )
        is_only_seen = ~has_action[last]
        lengths = last - starts + 1 - is_only_seen
        last, final = (rows[lengths > 0] for rows in (last, last - is_only_seen))
        lengths = lengths[lengths > 0]
        terminated, truncated = (
            _flags(scan, key, bit, has_action, last, final)
            for key, bit in (("terminated", TERMINATED), ("truncated", TRUNCATED))
        )
        if columns.terminated is True:
            terminated[final] |= ~truncated[final]
        only_last = _are_rewards_only_last(scan, has_action, last)
        kept = has_action & (has_next | terminated)
        if not kept.any():
            raise scan.error(
                f"every episode is cut after one row, the first in {scan.place(0)}, so none has a "
                "next observation; give dataset.episode or dataset.terminated"
            )
        cut = final[~terminated[final]]
        # A dropped row cuts its episode one step earlier.
        dropped = cut[~kept[cut] & (cut > 0)]
        truncated[dropped[has_next[dropped - 1]] - 1] = True
        truncated[cut] = True
        rows, notes = lengths - ~kept[final], []
        if empty := int(np.count_nonzero(rows == 0)):
            notes.append(
                f"{empty} of {len(rows)} episodes are cut after one row, the first in "
                f"{scan.place(final[np.argmax(rows == 0)])}, and give no transition"
            )
        return cls(
            has_action=has_action,
            kept=kept,
            has_next=has_next,
            terminated=terminated,
            truncated=truncated,
            only_last=only_last,
            lengths=lengths,
            rows=rows,
            num_cut=len(cut),
            notes=tuple(notes),
        )


def _flags(
    scan: Scan, key: str, bit: np.uint8, has_action: np.ndarray, last: np.ndarray, final: np.ndarray
) -> np.ndarray:
    """The steps that have a flag ``(N,)``; an episode's last row gives its flag to its last step.

    Args:
        last, final: the rows of each episode's last row and last step ``(E,)``.
    """
    values = scan.has(bit)
    values[final] |= values[last]
    values &= has_action
    early = values.copy()
    early[final] = False
    if early.any():
        raise scan.error(
            f"column {scan.columns.flags[key]!r} is true in "
            f"{scan.place(np.argmax(early))}, which is not its episode's last row; split the "
            "episode there, or correct it"
        )
    return values


def _are_rewards_only_last(scan: Scan, has_action: np.ndarray, last: np.ndarray) -> bool:
    """Whether each episode has a reward in its last row ``(E,)``, and in no other.

    Raises:
        DataError: otherwise, if rewards are missing or have no action.
    """
    column, is_rewarded = scan.columns.reward, scan.has(REWARDED)
    missing = has_action & ~is_rewarded
    if missing.any() and np.count_nonzero(is_rewarded) == len(last) and is_rewarded[last].all():
        return True
    if (alone := scan.has(NONZERO) & ~has_action).any():
        raise scan.error(
            f"column {column!r} has a reward in {scan.place(np.argmax(alone))}, which has no "
            "action; move it to the row of the action that earned it"
        )
    if missing.any() and scan.empty_reward is None:
        raise scan.error(
            f"column {column!r} is empty (NaN) in {scan.place(np.argmax(missing))}; fill it, or "
            "count every empty reward as 0: dataset.empty_reward=0"
        )
    return False
