"""The launcher of sweeps: it trains missing runs, those of one kind together.

Hydra calls it with the overrides of jobs and receives their return values. Complete runs return
their recorded objective; the others are divided into cohorts (:mod:`bcq_exp.training.cohort`) for
the workers.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.containers import unresolved
from bcq_exp.errors import RunStopped, UserError, first_line
from bcq_exp.files import shortest
from bcq_exp.formatting import counted, duration
from bcq_exp.sweep import state
from bcq_exp.sweep.composing import parted
from bcq_exp.sweep.division import CohortCost, Group, Kind, divided
from bcq_exp.sweep.forecast import plan_lines
from bcq_exp.sweep.jobs import Planned, SweepJobs
from bcq_exp.sweep.workers import InProcess, Workers
from bcq_exp.training import start
from bcq_exp.training.cohort import cohort_key, cohorts, train_cohort
from bcq_exp.training.folders import check_free, hold
from bcq_exp.training.progress import Part
from bcq_exp.training.provenance import command, own_configs
from bcq_exp.training.spec import RunSpec

log = logging.getLogger(__name__)

Reason = str | UserError  # why a run failed: an error of the run, or the user's mistake
MOST_NAMED = 10  # runs listed per reason of failure
MOST_WEIGHED = 8  # kinds of runs whose costs are computed for the time left, up to a second each


class RunFailed(RunStopped):
    """A run of a launch that failed.

    Args:
        reason: why this run failed.
        whole: the error of the launch.
    """

    def __init__(self, reason: Reason, whole: RunStopped) -> None:
        super().__init__(str(reason), whole.status)
        self.whole = whole


class CohortLauncher(Launcher):
    """``hydra/launcher=vectorized``, and the base of the other launchers.

    The results for Hydra's sweeper have the runs' objectives, not their configurations.

    Args:
        group_size: runs trained together; ``auto`` is as many as are fastest and fit in memory.
        workers: trains the groups; by default this process.
        plan_only: whether sweepers call :meth:`say_plan` instead of launching.
    """

    def __init__(
        self, group_size: int | str, workers: Workers | None = None, plan_only: bool = False
    ) -> None:
        if group_size != "auto" and not (isinstance(group_size, int) and group_size >= 1):
            raise UserError(
                f"hydra.launcher.group_size={group_size}: must be auto or an integer at least 1"
            )
        self._group_size = group_size
        self.workers = workers or InProcess()
        self.plan_only = plan_only

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config
        self._calls_back = bool(config.hydra.callbacks.keys() - {"check"})  # of jobs
        self._jobs = SweepJobs(hydra_context.config_loader, config)
        self._sweep = Path(config.hydra.sweep.dir).absolute()
        if config.hydra.job.chdir:
            if self._group_size not in ("auto", 1):
                raise UserError(
                    f"hydra.launcher.group_size={self._group_size}: must be 1 or auto with "
                    "hydra.job.chdir=true, which trains each run in its own folder"
                )
            self._group_size = 1

    def launch(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,
        until: int | None = None,
        later: float = 0.0,
    ) -> Sequence[JobReturn]:
        """Train the jobs that are not complete, or only to the step ``until``.

        Args:
            later: the work of the sweep after this launch, as a multiple of this launch's.

        Raises:
            UserError: if the same mistake of the user stopped all runs.
        """
        with _hydra_config_kept():
            check_free(self._sweep)
            self.workers.wait_for_earlier_jobs(self._sweep)
            planned = self._jobs.plan(job_overrides, initial_job_idx, until)
            missing = [each for each in planned if each.key is not None]
            groups = self._groups(missing)
            with hold(self._sweep):
                self._begin(planned, missing, groups, until)
                failures: dict[Path, Reason] = {
                    each.spec.folder: each.damage for each in planned if each.damage
                }
                failures |= self._train(missing, groups, later)
                failures |= _estimate_objectives(planned, failures, self._sweep)
                return self._results(planned, failures)

    def say_plan(self, job_overrides: Sequence[Sequence[str]], until: int | None = None) -> None:
        """Print what :meth:`launch` would do, with time and disk; nothing is written.

        Raises:
            UserError: for any reason that would prevent the launch.
        """
        with _hydra_config_kept():
            planned = self._jobs.plan(job_overrides, 0, until)
            missing = [each for each in planned if each.key is not None]
            groups = self._groups(missing, with_costs=True)
        damaged = {self._name(each.spec): each.damage for each in planned if each.damage}
        print(self._summary(planned, groups, until))
        for line in plan_lines(groups, self.workers.count, damaged):
            print(line)
        if num_valued := sum(each.spec.objective.fqe is not None for each in planned):
            policies = counted(num_valued, "policy", "policies")
            print(f"then fitted Q evaluation of {policies}, which is not counted here")

    def _groups(self, missing: Sequence[Planned], *, with_costs: bool = False) -> list[Group]:
        """Group jobs that are trained together, in the order of training.

        Costs are computed for the plan, to divide runs among workers, and to estimate the time left
        for a few kinds of runs; otherwise groups are weighted by their number of runs.

        Raises:
            UserError: if a group would not fit in memory, or its algorithm does not read what its
                configuration has.
        """
        if not missing:
            return []
        from bcq_exp.engine.placement import place  # brings torch
        from bcq_exp.training.algorithms import algorithm_class

        kinds = []
        cohorts_of_runs = cohorts([each.key for each in missing if each.key is not None])
        several = 1 < len(cohorts_of_runs) <= MOST_WEIGHED
        with_costs = with_costs or self.workers.count > 1 or several
        for numbers in cohorts_of_runs:
            runs = [missing[i] for i in numbers]
            spec = runs[0].spec
            algorithm_class(spec.algorithm)
            sizes = spec.algorithm.hidden_sizes
            placement = place(spec.trainer, sizes, len(runs), self._group_size)
            num_threads = placement.num_threads if self.workers.count == 1 else 1
            cost = _cost(runs[0], num_threads) if with_costs else None
            kinds.append(Kind(runs, placement.group_size, cost))
        return divided(kinds, self.workers.count)

    def _begin(
        self,
        planned: Sequence[Planned],
        missing: Sequence[Planned],
        groups: Sequence[Group],
        until: int | None,
    ) -> None:
        """Write the files of the sweep, set aside what its runs replace, and log what follows."""
        if groups:
            self.workers.check(self._sweep, len(groups))
        OmegaConf.save(self._config, self._sweep / "multirun.yaml")
        asked = command(_asked(self._config.hydra))
        state.expect(self._sweep, [self._name(each.spec) for each in planned], asked)
        for each in missing:
            start.make_room(each.spec)
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        log.info(self._summary(planned, groups, until))
        if groups and self.workers.count > 1:
            log.info("progress: bcq_exp status %s", shlex.quote(str(shortest(self._sweep))))

    def _summary(
        self, planned: Sequence[Planned], groups: Sequence[Group], until: int | None
    ) -> str:
        num_damaged = sum(bool(each.damage) for each in planned)
        sizes = [len(group.runs) for group in groups]
        num_complete = len(planned) - sum(sizes) - num_damaged
        state = "complete" if planned[0].spec.until is None else "trained so far"
        complete = f", {num_complete} {state}" if num_complete else ""
        damaged = f", {num_damaged} damaged" if num_damaged else ""
        words = "/".join(map(str, sorted(set(sizes), reverse=True)))
        divided_as = f" in {counted(len(sizes), 'group')} of {words}" if sizes else ""
        end = f" to step {until}" if until is not None else ""
        runs = f"{shortest(self._sweep)}: {counted(len(planned), 'run')}{complete}{damaged}"
        return f"{runs}, {sum(sizes)} to train{end}{divided_as}"

    def _name(self, spec: RunSpec) -> str:
        """The name of a run: its folder's path in the sweep's."""
        return os.path.relpath(spec.folder, self._sweep)

    def _train(
        self, missing: Sequence[Planned], groups: Sequence[Group], later: float
    ) -> dict[Path, Reason]:
        """Train the groups; return the reasons of failed runs by folder."""
        if not groups:
            return {}
        if self._calls_back:
            for each in missing:
                cfg, _ = self._jobs.compose(each.number, each.overrides)
                self._context.callbacks.on_job_start(config=cfg, task_function=self._task)
        failures: dict[Path, Reason] = {}
        work = [group.seconds for group in groups]
        parts = sweep_parts(work, later) if self.workers.count == 1 else [None] * len(groups)

        def ready() -> Iterator[list[RunSpec]]:  # made when a worker takes the group
            for group, part in zip(groups, parts, strict=True):
                for each in group.runs:
                    self._jobs.write_hydra_files(each)
                yield [replace(each.spec, part=part) for each in group.runs]

        num_ended, work_done, began = 0, 0.0, time.monotonic()
        for index, result in self.workers.run(_train_group, ready(), self._sweep):
            runs = groups[index].runs
            for k, each in enumerate(runs):
                reason = _reason(result) if isinstance(result, BaseException) else result[k]
                if reason is not None:
                    failures[each.spec.folder] = reason
            num_ended, work_done = num_ended + len(runs), work_done + work[index]
            failed = f", {len(failures)} failed" if failures else ""
            work_left = sum(work) * (1 + later) - work_done
            seconds = (time.monotonic() - began) * work_left / work_done
            left = f", about {duration(seconds)} left" if num_ended < len(missing) or later else ""
            until = missing[0].spec.until  # not their end: they continue, or are stopped there
            what = "ended" if until is None else f"trained to step {until}"
            log.info("%d of %s %s%s%s", num_ended, counted(len(missing), "run"), what, failed, left)
        return failures

    def _results(
        self, planned: Sequence[Planned], failures: Mapping[Path, Reason]
    ) -> list[JobReturn]:
        """Return what Hydra's sweeper receives of each job.

        Raises:
            UserError: if the same mistake of the user stopped all runs.
        """
        num_tried = sum(each.value is None for each in planned)
        error = _failure(failures, num_tried, len(planned)) if failures else None
        if isinstance(error, UserError):
            raise error
        return [self._result(each, failures.get(each.spec.folder), error) for each in planned]

    def _result(
        self, planned: Planned, reason: Reason | None, whole: RunStopped | None
    ) -> JobReturn:
        result = JobReturn(
            overrides=planned.overrides,
            working_dir=os.getcwd(),
            task_name=JobRuntime.instance().get("name"),
        )
        if reason is not None and whole is not None:
            result.return_value = RunFailed(reason, whole)
            result.status = JobStatus.FAILED
        else:
            value = planned.value
            if value is None:  # it is trained now
                value = planned.spec.objective.value(planned.spec.record, planned.spec.until)
            result.return_value, result.status = value, JobStatus.COMPLETED
        if planned.key is not None and self._calls_back:
            full, _ = self._jobs.compose(planned.number, planned.overrides)
            result.cfg, result.hydra_cfg = parted(full.copy())
            self._context.callbacks.on_job_end(config=full, job_return=result)
        return result


@contextmanager
def _hydra_config_kept() -> Iterator[None]:
    """Restore Hydra's global configuration, which composing a job replaces."""
    setup_globals()
    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _train_group(specs: Sequence[RunSpec]) -> list[Reason | None]:
    """Train a group; return each run's reason of failure, or ``None``.

    A worker that died before may have saved some runs at a later step than others, or completed
    them.
    """
    if specs[0].chdir:
        (spec,) = specs
        spec.folder.mkdir(parents=True, exist_ok=True)
        with chdir(spec.folder):
            return _train_group([replace(spec, chdir=False)])
    failures: dict[Path, Reason | None] = {spec.folder: None for spec in specs}
    try:
        left = [spec for spec in specs if not start.is_trained(spec, spec.record.summary())]
        for members in cohorts([cohort_key(spec) for spec in left]):
            cohort = [left[i] for i in members]
            ended = zip(cohort, train_cohort(cohort), strict=True)
            failures |= {spec.folder: failure for spec, failure in ended}
        return [failures[spec.folder] for spec in specs]
    except RunStopped:
        raise
    except UserError as error:
        return [error] * len(specs)
    except Exception as error:
        log.exception("a group of %s failed", counted(len(specs), "run"))
        return [_reason(error)] * len(specs)


def _estimate_objectives(
    planned: Sequence[Planned], failures: Mapping[Path, Reason], sweep: Path
) -> Mapping[Path, Reason]:
    """Estimate objectives by fitted Q evaluation, where asked for; return failures by folder."""
    trained = [each.spec for each in planned if each.spec.folder not in failures]
    if all(spec.objective.fqe is None for spec in trained):
        return {}
    from bcq_exp.selection.fqe_objective import estimate_objectives

    return estimate_objectives(trained, sweep)


def sweep_parts(work: Sequence[float], later: float) -> list[Part]:
    """Return the parts of a sweep that trains groups of so much work in turn.

    Args:
        later: the work after all groups, as a multiple of theirs.
    """
    after = later * sum(work)
    return [
        Part(number, len(work), (sum(work[number:]) + after) / own)
        for number, own in enumerate(work, 1)
    ]


def _asked(hydra: DictConfig) -> list[str]:
    """Return the user's overrides, without those that placed the sweep."""
    ours = ("hydra.sweep.dir=", "hydra.sweep.subdir=", "hydra.mode=", "hydra.sweeper._target_=")
    given = [o for o in unresolved(hydra.overrides.hydra) if not o.startswith(ours)]
    return [*own_configs(hydra), "-m", *given, *unresolved(hydra.overrides.task)]


def _reason(error: BaseException) -> Reason:
    if isinstance(error, UserError):
        return error
    line = first_line(error)
    return line if isinstance(error, RunStopped) else f"{type(error).__name__}: {line}"


def _failure(
    failures: Mapping[Path, Reason], num_tried: int, num_runs: int
) -> UserError | RunStopped:
    """Return the error of a launch: the user's mistake if it stopped all runs without a value.

    Args:
        num_tried: the number of runs without a value before.
        num_runs: the number of all runs.
    """
    named: dict[str, list[str]] = {}
    for folder, reason in failures.items():
        named.setdefault(str(reason), []).append(folder.name)
    first = next(iter(failures.values()))
    if isinstance(first, UserError) and len(named) == 1 and len(failures) == num_tried:
        return first
    lines = [f"{len(failures)} of {counted(num_runs, 'run')} failed:"]
    for said, names in named.items():
        lines += [f"  {name}: {said}" for name in names[:MOST_NAMED]]
        if more := names[MOST_NAMED:]:
            lines.append(f"  and {len(more)} more for the same reason")
    return RunStopped("\n".join(lines), status=1)


def _cost(one: Planned, num_threads: int) -> CohortCost | None:
    """Estimate the cost of runs like this one; ``None`` if it needs their data."""
    from bcq_exp.training.cost import cost_of

    assert one.key is not None
    try:
        run = cost_of(one.spec)
    except Exception:  # custom code may fail with assumed sizes; real errors show in training
        log.debug("no cost of %s", one.spec.folder, exc_info=True)
        return None
    # a run that stopped at its end still writes files
    left = max(1, (one.spec.until or one.spec.trainer.num_steps) - one.key.step)
    return CohortCost(run, left, num_threads)
