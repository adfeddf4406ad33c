"""The short table of results at the end of a sweep."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from hydra.core.utils import JobReturn, JobStatus

from bcq_exp.config.naming import short_names
from bcq_exp.config.overrides import key_and_value
from bcq_exp.formatting import and_more, columns, decimals

log = logging.getLogger(__name__)

MOST_SHOWN = 10  # listed settings
OBJECTIVES = {
    "return_mean": "return",
    "normalized_score": "normalized score",
    "fqe": "estimated value",
}


@dataclass(frozen=True)
class Result:
    """A setting of a sweep and the objectives of its runs.

    Args:
        setting: swept keys with their values, the seed left out.
        values: the objective of each run that has one.
        num_runs: how many runs the setting has.
        step: the step that the runs reached; 0 if all runs of the sweep have the same.
    """

    setting: Mapping[str, str]
    values: Sequence[float]
    num_runs: int
    step: int = 0

    @property
    def mean(self) -> float:
        """The mean objective; -inf where no run has one."""
        return fmean(self.values) if self.values else -math.inf


def of_jobs(jobs: Iterable[JobReturn], keys: Iterable[str]) -> list[Result]:
    """Collect the results of jobs by setting, the best first.

    Args:
        keys: the swept keys.
    """
    kept = set(keys) - {"seed"}
    groups: dict[tuple[tuple[str, str], ...], list[JobReturn]] = {}
    for job in jobs:
        given = map(key_and_value, job.overrides or ())
        setting = tuple((key, value) for key, value in given if key in kept)
        groups.setdefault(setting, []).append(job)
    found = []
    for setting, own in groups.items():
        done = (job.return_value for job in own if job.status == JobStatus.COMPLETED)
        values = [value for value in done if value is not None and math.isfinite(value)]
        found.append(Result(dict(setting), values, len(own)))
    return sorted(found, key=lambda result: -result.mean)


def log_results(results: Sequence[Result], folder: Path, objective: str) -> None:
    """Log the best settings, the command that compares all runs, and the page that it writes.

    Args:
        results: the results, the best first.
        folder: the folder of the sweep.
        objective: a key of OBJECTIVES.
    """
    for line in table(results, objective):
        log.info(line)
    page = folder / "report" / "index.html"
    log.info("report: bcq_exp compare %s writes %s", shlex.quote(str(folder)), page)


def table(results: Sequence[Result], objective: str) -> list[str]:
    """Format the first MOST_SHOWN results; empty if no run has an objective."""
    if not any(result.values for result in results):
        return []
    names = short_names(dict.fromkeys(key for result in results for key in result.setting))
    has_steps = len({result.step for result in results}) > 1
    header = [*names.values(), *["step"] * has_steps, "runs", OBJECTIVES[objective]]
    places = decimals(x for result in results for x in result.values)
    rows = [
        [
            *(result.setting.get(key, "") for key in names),
            *[str(result.step)] * has_steps,
            _runs(result),
            _mean_and_std(result.values, places),
        ]
        for result in results[:MOST_SHOWN]
    ]
    lines = [f"  {line}" for line in columns([header, *rows])]
    if len(results) > MOST_SHOWN:
        lines.append(and_more(len(results) - MOST_SHOWN, "  "))
    return lines


def _runs(result: Result) -> str:
    num_known = len(result.values)
    return f"{num_known} of {result.num_runs}" if num_known < result.num_runs else str(num_known)


def _mean_and_std(values: Sequence[float], places: int) -> str:
    spread = f" ± {stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{places}f}{spread}" if values else ""
