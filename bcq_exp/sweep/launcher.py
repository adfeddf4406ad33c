"""The launcher of sweeps: trains what is missing, runs of one kind together.

It is Hydra's to call: jobs come as overrides, and go back with what they returned. Runs that are
complete return their recorded objective; the others are divided into cohorts
(:mod:`bcq_exp.training.cohort`) and those handed to the workers.
"""

from __future__ import annotations

import copy
import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    _save_config,
    configure_log,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bcq_exp.config.checking import check
from bcq_exp.errors import Damaged, RunStopped, UserError, first_line
from bcq_exp.sweep import state
from bcq_exp.sweep.workers import InProcess, Workers
from bcq_exp.training import start
from bcq_exp.training.cohort import cohorts, placement_of, train_cohort
from bcq_exp.training.job import Job
from bcq_exp.training.provenance import command
from bcq_exp.training.record import RunRecord, hold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A job of the sweep, as Hydra wants it back and as it is trained."""

    result: JobReturn
    full: DictConfig
    job: Job


class CohortLauncher(Launcher):
    """``hydra/launcher=vectorized`` and its kin.

    Args:
        group_size: runs trained together, or ``auto``: as many as are fastest and fit in memory.
        workers: trains the groups; by default this process does.
    """

    def __init__(self, group_size: int | str, workers: Workers | None = None) -> None:
        if group_size != "auto" and not (isinstance(group_size, int) and group_size >= 1):
            raise UserError(
                f"hydra.launcher.group_size={group_size}: must be auto or an integer at least 1"
            )
        self._group_size = group_size
        self._workers = workers or InProcess()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        hydra_before = HydraConfig.instance().cfg
        try:
            prepared = [
                self._prepare(initial_job_idx + i, list(overrides))
                for i, overrides in enumerate(job_overrides)
            ]
            missing, damaged = _missing(prepared)
            groups = self._groups([each.job for each in missing])
            sweep = prepared[0].job.folder.parent
            with hold(sweep):
                asked = shlex.join(self._config.hydra.overrides.task)
                state.expect(sweep, [each.job.folder.name for each in prepared], asked)
                for each in missing:
                    start.RunPlan(each.job.cfg, each.job.folder).commit()
                    _write_hydra_files(each)
                configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
                self._say_what_comes(prepared, missing, groups)
                failures = {**damaged, **self._train(missing, groups, sweep)}
                return self._results(prepared, missing, failures)
        finally:
            HydraConfig.instance().cfg = hydra_before

    def _prepare(self, number: int, overrides: list[str]) -> Prepared:
        """Compose and check one job; nothing is written."""
        cfg = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        HydraConfig.instance().set_config(cfg)  # what ${hydra:...} resolves from
        folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)).absolute()
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)
        task = copy.deepcopy(cfg)
        with read_write(task), open_dict(task):
            del task["hydra"]
        check(task)
        OmegaConf.resolve(task)
        given = [str(override) for override in cfg.hydra.overrides.task]
        result = JobReturn(
            overrides=given,
            cfg=task,
            hydra_cfg=copy.deepcopy(cfg),
            working_dir=os.getcwd(),
            task_name=JobRuntime.instance().get("name"),
        )
        alone = [override for override in given if not override.startswith("name=")]  # the sweep's
        return Prepared(result, cfg, Job(task, folder, command(alone), is_alone=False))

    def _groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs that are trained together; enough groups for every worker to have one.

        Raises:
            UserError: if a group would not fit in memory, or its algorithm does not read what its
                configuration has.
        """
        from bcq_exp.training.parts import algorithm_class

        groups = []
        for cohort in cohorts(jobs):
            algorithm_class(cohort[0].cfg)
            fair = -(-len(cohort) // self._workers.count)
            size = min(placement_of(cohort, self._group_size).group_size, fair)
            groups += [cohort[i : i + size] for i in range(0, len(cohort), size)]
        return groups

    def _train(
        self, missing: Sequence[Prepared], groups: Sequence[list[Job]], sweep: Path
    ) -> dict[Path, str]:
        """Train the groups; why a run failed, by its folder."""
        callbacks = self._context.callbacks
        for each in missing:
            callbacks.on_job_start(config=each.full, task_function=self._task)
        failures: dict[Path, str] = {}
        ended = 0
        for index, result in self._workers.run(_train_group, groups, sweep):
            for k, job in enumerate(groups[index]):
                reason = _reason(result) if isinstance(result, BaseException) else result[k]
                if reason is not None:
                    failures[job.folder] = reason
            ended += len(groups[index])
            failed = f", {len(failures)} failed" if failures else ""
            log.info("%d of %d runs ended%s", ended, len(missing), failed)
        return failures

    def _results(
        self, prepared: Sequence[Prepared], missing: Sequence[Prepared], failures: dict[Path, str]
    ) -> list[JobReturn]:
        said = [f"  {folder.name}: {reason}" for folder, reason in failures.items()]
        error = RunStopped(
            "\n".join([f"{len(failures)} of {len(prepared)} runs failed:", *said]), status=1
        )
        for each in prepared:
            if each.job.folder in failures:
                each.result.return_value = error
                each.result.status = JobStatus.FAILED
        for each in missing:
            if each.job.folder not in failures:
                _complete(each)
            self._context.callbacks.on_job_end(config=each.full, job_return=each.result)
        return [each.result for each in prepared]

    def _say_what_comes(
        self, prepared: Sequence[Prepared], missing: Sequence[Prepared], groups: Sequence[list[Job]]
    ) -> None:
        done = len(prepared) - len(missing)
        sizes = sorted({len(group) for group in groups}, reverse=True)
        together = f" in {len(groups)} groups of {'/'.join(map(str, sizes))}" if groups else ""
        log.info(
            "%s: %d runs%s, %d to train%s",
            prepared[0].job.folder.parent,
            len(prepared),
            f", {done} complete" if done else "",
            len(missing),
            together,
        )


def _missing(prepared: Sequence[Prepared]) -> tuple[list[Prepared], dict[Path, str]]:
    """The jobs that are not complete, and which cannot go on, why; the complete get their result.

    Raises:
        UserError: for two jobs of one folder, or a folder with another configuration's run.
    """
    folders: set[Path] = set()
    for each in prepared:
        if each.job.folder in folders:
            raise UserError(f"two runs of the sweep map to one folder: {each.job.folder}")
        folders.add(each.job.folder)
    missing, damaged = [], {}
    for each in prepared:
        job = each.job
        try:
            start.check_folder(job.cfg, job.folder)
            if job.cfg.resume == "restart":
                missing.append(each)
            elif start.is_completed(job.cfg, RunRecord(job.folder).summary()):
                _complete(each)
            else:
                start.check_whole(job.folder)
                missing.append(each)
        except Damaged as error:
            damaged[job.folder] = str(error)
    return missing, damaged


def _train_group(jobs: Sequence[Job]) -> list[str | None]:
    """Why each job failed, or ``None``; what ends the whole group is each one's reason.

    A worker that died may have saved some of them at a later step than others, or completed them.
    """
    failures: dict[Path, str | None] = {job.folder: None for job in jobs}
    try:
        for cohort in cohorts([job for job in jobs if not _is_done(job)]):
            ended = zip(cohort, train_cohort(cohort), strict=True)
            failures |= {job.folder: failure for job, failure in ended}
        return [failures[job.folder] for job in jobs]
    except RunStopped:
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            log.exception("a group of %d runs failed", len(jobs))
        return [_reason(error)] * len(jobs)


def _is_done(job: Job) -> bool:
    return start.is_completed(job.cfg, RunRecord(job.folder).summary())


def _reason(error: BaseException) -> str:
    line = first_line(error)
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def _complete(prepared: Prepared) -> None:
    summary = RunRecord(prepared.job.folder).summary()
    assert summary is not None
    prepared.result.return_value = start.objective(prepared.job.cfg, summary)
    prepared.result.status = JobStatus.COMPLETED


def _write_hydra_files(prepared: Prepared) -> None:
    """The configuration beside the run, as Hydra leaves it for a run alone."""
    cfg = prepared.full
    if cfg.hydra.output_subdir is None:
        return
    folder = prepared.job.folder / cfg.hydra.output_subdir
    folder.mkdir(parents=True, exist_ok=True)
    for content, name in ((prepared.result.cfg, "config"), (prepared.result.hydra_cfg, "hydra")):
        assert content is not None
        _save_config(content, f"{name}.yaml", folder)
    _save_config(cfg.hydra.overrides.task, "overrides.yaml", folder)
