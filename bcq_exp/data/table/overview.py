"""Summarize a table in a few lines, for a check before training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from bcq_exp.data.table.action_columns import Actions
from bcq_exp.data.table.column_statistics import ColumnStatistics
from bcq_exp.data.table.rows import Value, shown
from bcq_exp.data.table.scan import Scan
from bcq_exp.data.table.sources import TableFiles
from bcq_exp.data.table.steps import Steps
from bcq_exp.formatting import and_more, counted, listed

EXTREME = 20  # standard deviations from the mean
_WIDTH, _NAMES, _ACTIONS = 80, 8, 12  # characters of a line; listed names; listed actions


def summarize(
    files: TableFiles, scan: Scan, steps: Steps, returns: np.ndarray, actions: Actions
) -> tuple[str, ...]:
    """Return lines of at most 80 characters, unless a name is longer; ``returns`` are (E,)."""
    count, columns = len(files.paths), scan.columns
    unused = [name for name in files.columns if name not in columns.all]
    facts = [
        ("table", f"{files.path}: {len(scan.states):,} rows{f' in {count} files' * (count > 1)}"),
        ("columns", columns.in_words()),
        *([("not used", _some(unused))] if unused else []),
        ("episodes", f"{len(returns):,}, {steps.num_cut:,} of them cut (truncated)"),
        ("lengths", _spread(steps.lengths)),
        ("returns", _spread(returns)),
        ("actions", _coverage(actions, scan.taken.counts, scan.taken.statistics)),
        *_odd_columns(scan.observations.statistics),
    ]
    lines = []
    for label, text in facts:
        start = f"{label:<10}"
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return tuple(lines)


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return (
        f"mean {values.mean():.4g}, standard deviation {values.std():.4g}, least {low:.4g}, "
        f"median {middle:.4g}, most {high:.4g}"
    )


def _coverage(
    actions: Actions, counts: Mapping[tuple[Value, ...], int], moves: ColumnStatistics
) -> str:
    names = ", ".join(actions.names)
    if isinstance(actions.space, Discrete):
        total = sum(counts.values())
        often = sorted(actions.values, key=lambda value: -counts.get(value, 0))
        shares = [f"{shown(v)} {counts.get(v, 0) / total:.3g}" for v in often[:_ACTIONS]]
        rest = often[_ACTIONS:]
        if rest:
            least = counts.get(rest[-1], 0)
            shares.append(f"{and_more(len(rest))}, the rarest {shown(rest[-1])} in {least} rows")
        return f"{names}: discrete, {len(often)}; shares {', '.join(shares)}"
    source = "given" if actions.is_asked_for else "of the data"
    columns = zip(moves.names, moves.low, moves.high, moves.mean, strict=True)
    parts = [f"{n} {low:.4g} to {high:.4g}, mean {mean:.4g}" for n, low, high, mean in columns]
    return f"continuous, bounds {source}; {listed(parts, _NAMES, '; ')}"


def _odd_columns(columns: ColumnStatistics) -> list[tuple[str, str]]:
    """Describe columns that never change, and columns with outliers."""
    found: list[tuple[str, str]] = []
    is_constant = columns.low == columns.high
    constant = [n for n, same in zip(columns.names, is_constant, strict=True) if same]
    if constant:
        found.append(("constant", _some(constant)))
    far, std = np.maximum(columns.high - columns.mean, columns.mean - columns.low), columns.std
    extreme: list[Any] = []
    is_flag = (columns.low == 0) & (columns.high == 1)
    for i in np.flatnonzero(~is_constant & ~is_flag & (far > EXTREME * std)):
        is_high = columns.high[i] - columns.mean[i] == far[i]
        value = columns.high[i] if is_high else columns.low[i]
        extreme.append(f"{columns.names[i]} {value:.4g} (mean {columns.mean[i]:.4g})")
    if extreme:
        words = f"values more than {EXTREME} standard deviations from the mean: "
        found.append(("extreme", words + _some(extreme, "; ")))
    return found


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = [f"and {counted(len(names) - _NAMES, 'more column')}"] if len(names) > _NAMES else []
    return between.join([*names[:_NAMES], *more])
