"""Whether a run starts, goes on, is done already, or must not start."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bcq_exp.config.meaning import differences, identity
from bcq_exp.config.overrides import located
from bcq_exp.config.plain import plain
from bcq_exp.errors import Damaged, UserError
from bcq_exp.training.job import Job
from bcq_exp.training.objective import Objective, check_objective
from bcq_exp.training.record import RunRecord, check_free, is_sweep
from bcq_exp.words import counted

log = logging.getLogger(__name__)


def check_folder(cfg: DictConfig, folder: Path) -> dict[str, Any] | None:
    """Hold a run against what its folder already has; nothing is written.

    Returns the summary of the run there that it is to go on from, if there is one. A run that ended
    before it recorded anything binds nobody.

    Raises:
        UserError: if an earlier run must not be continued (``resume=false``), has another
            configuration, is missing (``resume=true``) or in another process's hands; or the folder
            is a sweep's.
        Damaged: if its summary is, and it is not to be set aside.
    """
    record = RunRecord(folder)
    if is_sweep(folder):
        raise UserError(f"name={folder.name}: {folder} holds a sweep; choose another name")
    check_free(folder)
    if not record.has_begun:
        if cfg.resume is True and not is_sweep(folder.parent):
            raise UserError(f"resume=true: {folder} holds no run; resume=auto starts one")
        return None
    if cfg.resume == "restart" or (summary := record.progress()) is None:
        return None
    if cfg.resume is False:
        raise UserError(
            f"resume=false: {folder} holds a run already; choose another name, resume=auto to "
            "continue it or resume=restart to set it aside"
        )
    check_continues(cfg, summary, folder)
    return summary


@dataclass(frozen=True)
class RunPlan:
    """A run that may start, or go on, in a folder."""

    cfg: DictConfig
    folder: Path
    overrides: tuple[str, ...] = ()

    def commit(self) -> None:
        """With ``resume=restart`` set an earlier run of the folder aside."""
        if self.cfg.resume == "restart" and RunRecord(self.folder).has_begun:
            set_aside(self.folder)


def plan_run(cfg: DictConfig, folder: Path) -> RunPlan:
    """What is then to do, of a run that :func:`check_folder` lets start.

    Raises:
        UserError: as that does, or if the algorithm does not read what the configuration has.
    """
    cfg = located(cfg, os.getcwd())
    check_objective(cfg, is_wanted=False)
    if not is_completed(cfg, check_folder(cfg, folder)):
        from bcq_exp.training.parts import algorithm_class

        algorithm_class(cfg)
    return RunPlan(cfg, folder)


def check_continues(cfg: DictConfig, summary: dict[str, Any], folder: Path) -> None:
    """Hold a configuration against the run of the folder that it is to continue.

    Raises:
        UserError: if it would learn something else, or ends before the run's present step.
    """
    if changed := changes(cfg, summary):
        raise UserError(
            f"{folder} holds a run with another configuration: {', '.join(changed.values())}; "
            "choose another name, or resume=restart to set the old run aside"
        )
    if summary["status"] != "completed" and summary["step"] > cfg.trainer.num_steps:
        raise UserError(
            f"trainer.num_steps={cfg.trainer.num_steps}: must be at least the "
            f"{counted(summary['step'], 'step')} that the run in {folder} has taken"
        )


def changes(cfg: DictConfig, summary: dict[str, Any]) -> dict[str, str]:
    """The keys in which a configuration would learn something else than a run, each in words."""
    return differences(identity(summary["config"]), identity(plain(cfg)))


def check_data(job: Job, facts: Mapping[str, Any]) -> None:
    """Compare a data set with those that the run there, and others of its sweep, learned from.

    Args:
        facts: of the data set as it is now (:meth:`bcq_exp.data.task.Task.facts`).

    Raises:
        UserError: if one had other contents under the same ``dataset`` keys.
    """
    folder, data = job.folder, _data_of(plain(job.cfg))
    whole = folder.parent if is_sweep(folder.parent) else folder
    others = whole.glob("*/summary.json") if whole != folder else ()
    for place in (folder, *(path.parent for path in others)):
        with suppress(Damaged):
            summary = RunRecord(place).progress()
            if summary is None or _data_of(summary["config"]) != data:
                continue
            recorded, now = summary["dataset"].get("content_hash"), facts["content_hash"]
            if recorded not in (None, now):
                of_all = "" if whole == folder else " with all of its runs"
                raise UserError(
                    f"cannot resume {whole}: its data set changed (recorded {recorded[:12]}..., "
                    f"now {now[:12]}...); use a new name= or resume=restart{of_all}"
                )
            return  # one run stands for all: each was compared before it began


def _data_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return identity({"dataset": config["dataset"], "online": config.get("online")})


def is_completed(cfg: DictConfig, summary: dict[str, Any] | None) -> bool:
    """Whether the run in the folder has all the steps that are asked for."""
    return (
        summary is not None
        and summary["status"] == "completed"
        and summary["step"] >= cfg.trainer.num_steps
    )


def has_arrived(job: Job, summary: dict[str, Any] | None) -> bool:
    """Whether the run in a job's folder, of that summary, has been trained as far as it is to be.

    Raises:
        Damaged: if its files are.
    """
    if job.until is None or summary is None:
        return is_completed(job.cfg, summary)
    objective = Objective.of(job.cfg)
    if objective.row(job.folder, job.until, summary) is not None:
        return True
    if objective.fqe is None or summary["step"] < job.until:
        return False
    # an estimate follows, of a checkpoint, which is written after the evaluation
    return summary["status"] == "stopped" or _has_checkpoint(job.until, job.folder)


def _has_checkpoint(step: int, folder: Path) -> bool:
    from bcq_exp.training import checkpoint  # brings torch

    found = checkpoint.to_go_on(RunRecord(folder), lazily=True)
    return found is not None and found.content["step"] >= step


def set_aside(folder: Path) -> None:
    """Move a run out of the way: beside its folder, or into the sweep's ``.set_aside``."""
    home = folder.parent / ".set_aside" if is_sweep(folder.parent) else folder.parent
    home.mkdir(exist_ok=True)
    number = 1
    while (aside := home / f"{folder.name}.{number}").exists():
        number += 1
    folder.rename(aside)
