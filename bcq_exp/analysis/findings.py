"""Warnings about a set of runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bcq_exp.algorithm.alerts import Watch
from bcq_exp.analysis.runs import RunTables

DIVERGING_FACTOR = 3.0  # growth from one quarter of training to the next, twice


@dataclass(frozen=True)
class Finding:
    """One warning about one run.

    Args:
        kind: the problem in a few words.
        detail: the numbers behind it.
    """

    run: int
    severity: Literal["error", "warning"]
    kind: str
    detail: str


def findings(runs: RunTables) -> list[Finding]:
    """All warnings, errors first.

    Each run decided while it trained whether a metric was out of bounds for long enough
    (``Run.log_training``); its summary lists it under ``trouble``.
    """
    training = dict(list(runs.training.groupby("run")))
    none = runs.training[:0]
    found = [
        finding
        for index in runs.runs.index
        for finding in _of_run(int(index), runs.runs.loc[index], training.get(index, none))
    ]
    found += list(_lagging(runs.runs))
    return sorted(found, key=lambda finding: (finding.severity, finding.kind, finding.run))


def _of_run(index: int, run: pd.Series, training: pd.DataFrame) -> Iterator[Finding]:
    if run["status"] == "failed":
        yield Finding(index, "error", "failed", str(run["reason"]))
    if run["status"] == "interrupted":
        yield Finding(
            index, "warning", "interrupted", f"at step {run['step']} of {run['num_steps']}"
        )
    if training.empty:
        return
    for entry in run["watches"]:
        watch = Watch(**entry)
        columns = [name for name in watch.statistics if name in training]
        if watch.diverging:
            yield from _diverging(index, watch, training[columns])
        elif watch.kind in (run["trouble"] or ()):
            yield from _out_of_bounds(index, watch, training, columns)


def _out_of_bounds(
    index: int, watch: Watch, training: pd.DataFrame, columns: list[str]
) -> Iterator[Finding]:
    """The values of the last row that are out of bounds."""
    last = training.iloc[-1]
    remedy = f"; try {watch.remedy}" if watch.remedy else ""
    for excess in watch.out_of_bounds({name: last[name] for name in columns}):
        detail = f"{excess} at step {last['step']:.0f}{remedy}"
        yield Finding(index, "warning", watch.kind, detail)


def _diverging(index: int, watch: Watch, training: pd.DataFrame) -> Iterator[Finding]:
    """Metrics that are not finite, or grow by DIVERGING_FACTOR a quarter over the last half."""
    reported = training.dropna(how="all")
    size = reported.abs().max(axis=1).to_numpy()
    if np.isinf(reported.to_numpy()).any():  # NaN is a metric that no step of a row reported
        yield Finding(index, "error", watch.kind, "not finite")
        return
    if len(size) < 8:
        return
    quarter = len(size) // 4
    early, middle, late = (
        float(np.median(part))
        for part in (size[quarter : 2 * quarter], size[-2 * quarter : -quarter], size[-quarter:])
    )
    if late > DIVERGING_FACTOR * middle > DIVERGING_FACTOR**2 * max(early, 1e-9):
        names = ", ".join(training.columns)
        detail = f"{names}: {early:.3g}, {middle:.3g}, {late:.3g} over the last three quarters"
        yield Finding(index, "warning", watch.kind, detail)


def _lagging(runs: pd.DataFrame) -> Iterator[Finding]:
    """Running runs that are far behind the other running ones."""
    running = runs[runs["status"] == "running"]
    if len(running) < 2:
        return
    share = running["step"] / running["num_steps"]
    for index in running.index[share < 0.5 * share.median()]:
        run = runs.loc[index]
        detail = (
            f"step {run['step']} of {run['num_steps']}; the median run is at {share.median():.0%}"
        )
        yield Finding(int(index), "warning", "lags behind", detail)
