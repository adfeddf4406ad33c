"""Decide whether a run starts, resumes, is complete already, or must not start."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from bcq_exp import files
from bcq_exp.config.identity import differences, identity
from bcq_exp.errors import Damaged, UserError
from bcq_exp.formatting import counted, listed
from bcq_exp.training.folders import check_free, is_sweep, sweep_of
from bcq_exp.training.record import SET_ASIDE, RunRecord
from bcq_exp.training.spec import RunSpec

if TYPE_CHECKING:
    from bcq_exp.data.task import Task


def plan_run(cfg: DictConfig, folder: Path) -> RunSpec:
    """Resolve and check a run that is to start or resume in a folder; nothing is written.

    Raises:
        UserError: as :func:`check_folder`, or if the algorithm does not read what the configuration
            has.
        Damaged: as :func:`check_folder`, or if the checkpoint is missing.
    """
    spec = RunSpec.of(cfg, folder)
    spec.check()
    if not is_trained(spec, summary := check_folder(spec)):
        check_has_checkpoint(spec, summary)
        from bcq_exp.training.algorithms import algorithm_class  # brings torch

        algorithm_class(spec.algorithm)
    return spec


def make_room(spec: RunSpec) -> None:
    """With ``resume=restart`` set an earlier run in the folder aside."""
    if spec.resume == "restart" and spec.record.has_begun:
        set_aside(spec.folder)


def check_folder(spec: RunSpec) -> dict[str, Any] | None:
    """Compare a run with the files of its folder; nothing is written.

    Returns the summary of the run that it continues, if there is one. A run that ended before it
    recorded anything is not compared.

    Raises:
        UserError: if an earlier run must not be continued (``resume=false``), has another
            configuration, is missing (``resume=true``) or held by another process; or if the folder
            is a sweep's.
        Damaged: if the summary is damaged and is not to be set aside.
    """
    folder, record = spec.folder, spec.record
    if is_sweep(folder):
        raise UserError(f"name={folder.name}: {folder} holds a sweep; choose another name")
    check_free(folder)
    if not record.has_begun:
        if spec.resume is True and sweep_of(folder) is None:
            raise UserError(f"resume=true: {folder} holds no run; resume=auto starts one")
        return None
    if spec.resume == "restart" or (summary := record.progress()) is None:
        return None
    if spec.resume is False:
        raise UserError(
            f"resume=false: {folder} holds a run already; choose another name, resume=auto to "
            "continue it or resume=restart to set it aside"
        )
    check_continues(spec, summary)
    return summary


def is_complete(spec: RunSpec) -> bool:
    """Whether a run has nothing left to train.

    Raises:
        UserError: if it must not continue the run in its folder.
        Damaged: if that run's files are damaged.
    """
    summary = spec.record.progress()
    if summary is not None:
        check_continues(spec, summary)
    return is_trained(spec, summary)


def check_continues(spec: RunSpec, summary: Mapping[str, Any]) -> None:
    """Check that a run can continue the run in its folder.

    Raises:
        UserError: if its identity differs, or it ends before the step reached.
    """
    if changed := changes(spec, summary):
        raise UserError(
            f"{spec.folder} holds a run with another configuration: {listed([*changed.values()])}; "
            "choose another name, or resume=restart to set the old run aside"
        )
    num_steps = spec.trainer.num_steps
    if summary["status"] != "completed" and summary["step"] > num_steps:
        raise UserError(
            f"trainer.num_steps={num_steps}: must be at least the "
            f"{counted(summary['step'], 'step')} that the run in {spec.folder} has taken"
        )


def changes(spec: RunSpec, summary: Mapping[str, Any]) -> dict[str, str]:
    """Describe each key of the identity in which a run differs from a summary, by key."""
    return differences(identity(summary["config"]), spec.identity)


def check_task(spec: RunSpec, task: Task) -> None:
    """Check that the run in the folder, and others of its sweep, had the same data and environment.

    Raises:
        UserError: if the contents, the environment or its reference scores differ under the same
            keys.
    """
    folder, mine = spec.folder, spec.identity
    whole: Path = folder
    others: list[str] = []
    if sweep := sweep_of(folder):
        depth = len(folder.absolute().relative_to(sweep).parts)
        whole, others = sweep, glob.glob("*/" * depth + "summary.json", root_dir=sweep)
    data, now = task.facts()["content_hash"], task.lasting_facts()
    unseen = [_names_data, _names_environment]
    for place in (folder, *((whole / path).parent for path in others)):
        with suppress(Damaged):
            summary = RunRecord(place).progress()
            if summary is None:
                continue
            theirs = identity(summary["config"])
            for names in [names for names in unseen if _alike(mine, theirs, names)]:
                unseen.remove(names)  # one run stands for all: each was compared before it began
                was = summary["dataset"]["content_hash"]
                if names is _names_environment:
                    changed = _changed(summary, now)
                elif was not in (None, data):
                    changed = f"data set changed (recorded {was[:12]}..., now {data[:12]}...)"
                else:
                    continue
                if changed:
                    of_all = "" if whole == folder else " with all of its runs"
                    raise UserError(
                        f"cannot resume {whole}: its {changed}; use a new name= or "
                        f"resume=restart{of_all}"
                    )
        if not unseen:
            return


def _changed(summary: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how a run's environment or reference scores changed; empty if they did not."""
    was = summary.get("environment", {})
    both = was.keys() & now["environment"].keys()
    changed = differences(*({key: each[key] for key in both} for each in (was, now["environment"])))
    if changed:
        return f"environment changed: {', '.join(changed.values())}"
    old, new = summary.get("reference_scores"), now["reference_scores"]
    are_other = None not in (old, new) and old != new
    return f"reference scores changed ({old} -> {new})" if are_other else ""


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], names: Callable[[str], bool]) -> bool:
    """Whether two identities agree in the keys that ``names`` chooses."""
    first, second = ({k: v for k, v in each.items() if names(k)} for each in (one, other))
    return first == second


def _names_data(key: str) -> bool:
    """Whether a key affects the contents of the data: not the choice of episodes or environment."""
    return key.startswith("dataset.") and key not in ("dataset.env", "dataset.holdout")


def _names_environment(key: str) -> bool:
    group, _, name = key.partition(".")
    return group in ("dataset", "online") and name in ("_target_", "id", "path", "env")


def is_trained(spec: RunSpec, summary: Mapping[str, Any] | None) -> bool:
    """Whether the run in the folder, with that summary, has been trained as far as it should.

    Raises:
        Damaged: if its files are damaged.
    """
    if summary is None:
        return False
    if spec.until is None:
        is_long_enough = summary["step"] >= spec.trainer.num_steps
        return summary["status"] == "completed" and is_long_enough
    objective = spec.objective
    if objective.row(spec.record, spec.until, summary) is not None:
        return True
    if objective.fqe is None or summary["step"] < spec.until:
        return False
    # the objective will be estimated from a checkpoint, which is written after the evaluation
    return summary["status"] == "stopped" or _has_checkpoint(spec, spec.until)


def _has_checkpoint(spec: RunSpec, step: int) -> bool:
    from bcq_exp.training import checkpoint  # brings torch

    found = checkpoint.find_resumable(spec.record, lazily=True)
    return found is not None and found.content["step"] >= step


def check_has_checkpoint(spec: RunSpec, summary: Mapping[str, Any] | None) -> None:
    """Check that a run that ended, and is to go on, has its checkpoint.

    Raises:
        Damaged: if it is gone: the run would begin at step 0, and its rows be lost.
    """
    if summary is None or not summary["step"] or summary["status"] not in ("completed", "stopped"):
        return
    if not (path := spec.record.checkpoint).exists():
        raise Damaged(f"{path} is missing", SET_ASIDE)


def set_aside(folder: Path) -> None:
    """Rename a run's folder to ``NAME.1``; in a sweep, move it to ``.set_aside/``."""
    sweep = sweep_of(folder)
    home = folder.parent if sweep is None else sweep / ".set_aside"
    files.set_aside(folder, home)
