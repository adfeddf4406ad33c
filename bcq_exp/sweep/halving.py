"""A sweeper for successive halving over a grid: the worst settings stop at each rung.

:mod:`bcq_exp.sweep.rungs` decides which.

A rung is decided when all its settings have reached it, unlike in ASHA (Li et al. 2020,
arXiv:1810.05934), which promotes a setting as soon as it is among the best so far: runs are trained
together and reach a rung together. The remaining runs are grouped again and resume from their
checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from bcq_exp.config.naming import RunNaming
from bcq_exp.config.overrides import key_and_value, resuming
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.files import as_json, write_atomically
from bcq_exp.formatting import numbers
from bcq_exp.internals import content, value_or_error
from bcq_exp.ranges import SHARE
from bcq_exp.sweep import result_table, state
from bcq_exp.sweep.grid import GridSweeper
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.sweep.rungs import Rung, compare, rung_sizes, rung_steps

log = logging.getLogger(__name__)

HALVING_FILE = "halving.json"  # in the sweep's folder: the decisions of each rung
OF_ALL = ("trainer.num_steps", "trainer.eval_every", "trainer.objective")  # the settings, alike

Settings: TypeAlias = Mapping[str, Sequence[list[str]]]
"""The overrides of each run of a setting, by the setting's name."""


class HalvingSweeper(GridSweeper):
    """``hydra/sweeper=halving``, over a grid as a command line or ``params`` gives it.

    Runs that differ only in their seed are one setting, and continue or stop together.

    Args:
        eta: one in so many settings continues.
        rungs: shares of ``trainer.num_steps`` at which settings are compared, besides the end.
        params: swept keys, as on a command line.
    """

    def __init__(self, eta: int, rungs: Sequence[float], params: dict[str, str] | None) -> None:
        super().__init__(max_batch_size=None, params=params)
        if not (isinstance(eta, int) and eta >= 2):
            raise UserError(f"hydra.sweeper.eta={eta}: must be an integer at least 2")
        is_list = isinstance(rungs, Sequence) and not isinstance(rungs, str) and len(rungs) > 0
        if not is_list or not all(isinstance(x, float) and x in SHARE for x in rungs):
            raise UserError(f"hydra.sweeper.rungs={rungs}: must be a list of numbers, each {SHARE}")
        self._eta, self._shares = eta, list(rungs)

    def sweep(self, arguments: list[str]) -> list[Rung]:
        """Train the grid to the first rung and the best settings to the end; return the decisions.

        Raises:
            RunStopped: if runs failed, after the others have ended.
            UserError: if there are no settings, or no evaluations, to compare.
        """
        launcher, config = self.launcher, self.config
        assert config is not None and isinstance(launcher, CohortLauncher)
        settings = self._settings(arguments)
        naming = _naming(config)
        trainer, folder = config.trainer, self._folder
        steps = rung_steps(trainer.num_steps, trainer.eval_every, self._shares)
        sizes = rung_sizes(len(settings), self._eta, len(steps))
        if launcher.plan_only:
            for line in _plan_lines(steps, sizes, settings):
                print(line)
            launcher.say_plan(_jobs(settings), until=steps[0])
            return []
        rungs: list[Rung] = []
        stopped: dict[str, str] = {}
        failures: list[str] = []
        work = [size * (b - a) for size, (a, b) in zip(sizes, pairwise([0, *steps]), strict=True)]
        found: dict[str, result_table.Result] = {}  # each setting at its last rung
        for i, (step, num_kept) in enumerate(zip(steps, [*sizes[1:], 1], strict=True)):
            later = sum(work[i + 1 :]) / work[i]
            returned = launcher.launch(_jobs(settings), 0, until=step, later=later)
            failures += dict.fromkeys(
                str(value_or_error(each).whole) for each in returned if _failed(each)
            )
            for result in result_table.of_jobs(returned, naming.keys):
                found[str(result.setting)] = replace(result, step=step)
            rungs.append(compare(step, _values(settings, returned), num_kept))
            for name, reason in _reasons(rungs[-1]):
                stopped |= {naming.folder(job): reason for job in settings[name]}
            _write(folder, rungs, stopped)
            settings = {n: list(map(resuming, settings[n])) for n in rungs[-1].continuing}
            if not settings:
                break
        if settings:
            best, num_settings = rungs[-1].settings[0], len(rungs[0].settings)
            words = "best of %d settings at step %d: %s with %s"
            log.info(words, num_settings, steps[-1], *numbers(best.value), best.name)
        ranked = sorted(found.values(), key=lambda result: (-result.step, -result.mean))
        result_table.log_results(ranked, folder, trainer.objective)
        if failures:
            raise RunStopped("\n".join(failures), status=1)
        return rungs

    def _settings(self, arguments: Sequence[str]) -> Settings:
        """Group the grid's runs by setting, in order.

        Raises:
            UserError: if there is only one setting, or a swept key changes the comparison.
        """
        given = self.parsed(arguments)
        swept = {o.get_key_element().lstrip("+") for o in given if o.is_sweep_override()}
        for key in OF_ALL:
            if key in swept:
                raise UserError(
                    f"{key}: cannot be swept with hydra/sweeper=halving; give one value"
                )
        (jobs,) = self.split_arguments(given, None)
        settings: dict[str, list[list[str]]] = {}
        for job in jobs:
            name = " ".join(o for o in job if key_and_value(o)[0] in swept - {"seed"})
            settings.setdefault(name, []).append(job)
        if len(settings) < 2:
            raise UserError(
                "hydra/sweeper=halving: needs several settings to compare; give several values to "
                "a key other than seed"
            )
        return settings


def _naming(config: DictConfig) -> RunNaming:
    """Return the naming of the sweep's runs, by which rungs find them.

    Raises:
        UserError: if the user names them.
    """
    subdir = content(content(config.hydra.sweep)["subdir"])
    naming = RunNaming.of(str(subdir))
    if naming is None:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: cannot be set with hydra/sweeper=halving, which names "
            "runs by the swept keys; leave it out"
        )
    return naming


def _jobs(settings: Settings) -> list[list[str]]:
    return [job for jobs in settings.values() for job in jobs]


def _failed(result: JobReturn) -> bool:
    return result.status != JobStatus.COMPLETED


def _values(settings: Settings, returned: Sequence[JobReturn]) -> dict[str, float | None]:
    """Return the mean objective of each setting's runs from results in their order."""
    left, values = iter(returned), dict[str, float | None]()
    for name, jobs in settings.items():
        own = list(islice(left, len(jobs)))
        values[name] = None if any(map(_failed, own)) else fmean(r.return_value for r in own)
    return values


def _reasons(rung: Rung) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting that stops, and the reason."""
    for setting in rung.settings:
        if setting.value is None:
            yield setting.name, "another run of its setting failed"
        elif not setting.goes_on:
            place = f"{setting.rank} of {len(rung.settings)} settings"
            yield setting.name, f"{place} at step {rung.step}: mean {numbers(setting.value)[0]}"


def _write(folder: Path, rungs: Sequence[Rung], stopped: Mapping[str, str]) -> None:
    """Write the decisions so far to the sweep's folder, for users and ``status``."""
    write_atomically(folder / HALVING_FILE, as_json({"rungs": [asdict(rung) for rung in rungs]}))
    state.note_stopped(folder, stopped)


def _plan_lines(steps: Sequence[int], sizes: Sequence[int], settings: Settings) -> Iterator[str]:
    """Describe the rungs, and the share of a full grid's steps that they need."""
    before, taken = 0, 0
    for step, size in zip(steps, sizes, strict=True):
        yield f"  {size} of {len(settings)} settings to step {step}"
        before, taken = step, taken + size * (step - before)
    yield f"{taken / (len(settings) * steps[-1]):.0%} of the steps of a full grid; the first rung:"
