"""What in a set of runs is worth a person's eye."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bcq_exp.analysis.runs import Runs

DEAD_KL = 1e-3  # nats: the posterior is the prior, and the latent says nothing
STUCK_SHARE = 0.95  # of the largest mean |perturbation| there can be
DIVERGING_FACTOR = 3.0  # growth of |Q| from one quarter of training to the next, twice


@dataclass(frozen=True)
class Finding:
    """One warning about one run.

    Args:
        kind: what it is, in a few words.
        detail: the figures.
    """

    run: int
    severity: Literal["error", "warning"]
    kind: str
    detail: str


def findings(runs: Runs) -> list[Finding]:
    """All warnings, the gravest first."""
    found = [
        finding
        for index in runs.runs.index
        for finding in _of_run(
            int(index), runs.runs.loc[index], runs.training[runs.training["run"] == index]
        )
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
    last = training.iloc[-1]
    yield from _diverging(index, training)
    if last["kl_loss"] < DEAD_KL:
        yield Finding(
            index, "warning", "dead VAE", f"KL {last['kl_loss']:.2g} at step {last['step']:.0f}"
        )
    bound = run["perturbation_bound"]  # phi times half the action's range, averaged
    if bound and last["perturbation_abs_mean"] > STUCK_SHARE * bound:
        detail = f"mean |perturbation| {last['perturbation_abs_mean']:.3g} of at most {bound:.3g}"
        yield Finding(index, "warning", "perturbation at phi", detail)


def _diverging(index: int, training: pd.DataFrame) -> Iterator[Finding]:
    """Q that is not finite, or has grown by DIVERGING_FACTOR over the last half and still grows."""
    q = training[["q1_mean", "q2_mean"]].abs().max(axis=1).to_numpy()
    if not np.isfinite(q).all():
        yield Finding(index, "error", "diverging Q", "not finite")
        return
    if len(q) < 8:
        return
    quarter = len(q) // 4
    early, middle, late = (
        float(np.median(part))
        for part in (q[quarter : 2 * quarter], q[-2 * quarter : -quarter], q[-quarter:])
    )
    if late > DIVERGING_FACTOR * middle > DIVERGING_FACTOR**2 * max(early, 1e-9):
        detail = f"|Q| {early:.3g}, {middle:.3g}, {late:.3g} over the last three quarters"
        yield Finding(index, "warning", "diverging Q", detail)


def _lagging(runs: pd.DataFrame) -> Iterator[Finding]:
    """Runs that are underway, far behind the others that are."""
    running = runs[runs["status"] == "running"]
    if len(running) < 2:
        return
    share = running["step"] / running["num_steps"]
    for index in running.index[share < 0.5 * share.median()]:
        run = runs.loc[index]
        detail = (
            f"step {run['step']} of {run['num_steps']}, the others' median {share.median():.0%}"
        )
        yield Finding(int(index), "warning", "lags behind", detail)
