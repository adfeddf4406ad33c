"""Runs contestants as processes of their own, in alternation, and keeps what each measured."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900


@dataclass(frozen=True)
class Contestant:
    """A command that ends by printing a line of JSON with a ``value``.

    Args:
        ours: whether its ratio to the best of the others is wanted.
        precision: fp32 or bf16 where it trains, for the fraction of the GEMM peak.
        flops: of one step, where it trains.
    """

    name: str
    command: tuple[str, ...]
    ours: bool = False
    precision: str | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Row:
    """Contestants measured side by side.

    Args:
        higher_is_better: whether the value is a rate rather than a time.
        cores: that each contestant may use; None is all of them.
        skip: says why the row cannot be run here, or None.
    """

    name: str
    title: str
    unit: str
    contestants: tuple[Contestant, ...]
    higher_is_better: bool = True
    cores: int | None = None
    skip: Callable[[], str | None] = lambda: None


@dataclass
class Outcome:
    """One contestant's figures, a dict a round, or why there are none."""

    contestant: Contestant
    rounds: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    @property
    def values(self) -> list[float]:
        return [figures["value"] for figures in self.rounds]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def run_row(row: Row, repeats: int, threads: int, say: Callable[[str], None]) -> list[Outcome]:
    """Every contestant ``repeats`` times, A B C A B C ...; one that fails is left out from then."""
    outcomes = [Outcome(contestant) for contestant in row.contestants]
    for number in range(repeats):
        for outcome in outcomes:
            if outcome.failure is None:
                _run_once(outcome, row.cores or threads)
                last = outcome.failure or f"{outcome.values[-1]:.4g} {row.unit}"
                say(f"{row.name} {number + 1}/{repeats} {outcome.contestant.name}: {last}")
    return outcomes


def _run_once(outcome: Outcome, threads: int) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            ("taskset", "--cpu-list", f"0-{threads - 1}", *outcome.contestant.command),
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        outcome.failure = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        return
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = (done.stderr.strip() or "no figures printed").splitlines()[-1]
        outcome.failure = said[:160]
        return
    outcome.rounds.append(json.loads(lines[-1]))


def ratios(outcome: Outcome, others: Sequence[Outcome], higher_is_better: bool) -> list[float]:
    """How many times better than the best other contestant, round by round; [] without any.

    Those of the same precision, if there are any.
    """
    rivals = [o for o in others if not o.contestant.ours and o.failure is None]
    precision = outcome.contestant.precision
    rivals = [o for o in rivals if o.contestant.precision == precision] or rivals
    if outcome.failure is not None or not rivals:
        return []
    if higher_is_better:
        best = [max(values) for values in zip(*(r.values for r in rivals), strict=True)]
        return [ours / other for ours, other in zip(outcome.values, best, strict=True)]
    best = [min(values) for values in zip(*(r.values for r in rivals), strict=True)]
    return [other / ours for ours, other in zip(outcome.values, best, strict=True)]
