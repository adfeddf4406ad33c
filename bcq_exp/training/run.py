"""One run: its record, tracker and evaluations, apart from the engine that trains it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

from torch import Tensor

from bcq_exp.algorithm.alerts import Watch
from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.files import shortest
from bcq_exp.formatting import counted, numbers
from bcq_exp.training import checkpoint
from bcq_exp.training.evaluation import Agent, Evaluator, ObsNormalizer, Stopped
from bcq_exp.training.folders import sweep_of, this_process
from bcq_exp.training.record import RunRecord
from bcq_exp.training.tracking import Tracker

NormalizedScore = Callable[[float], float | None]
LASTING_STEPS = 2000  # a metric may start out of bounds: it is trouble after so many steps


@dataclass
class Run:
    """Records, tracks, evaluates and saves one run; independent of how it is trained.

    Args:
        log: the logger of its messages.
        evaluator: ``None`` where there is no environment to evaluate in.
        facts: the constant fields of ``summary.json``: configuration, data, versions.
        environment: the environment's state in checkpoints.
        seconds: trained so far, without evaluations; at least those of the last row.
    """

    record: RunRecord
    log: logging.Logger
    tracker: Tracker
    evaluator: Evaluator | None
    normalizer: ObsNormalizer | None
    normalized_score: NormalizedScore
    facts: Mapping[str, Any]
    environment: Mapping[str, Any]
    seconds: float
    failure: str | None = field(default=None, init=False)
    _evaluations: list[dict[str, Any]] = field(init=False)
    _logged_seconds: float = field(init=False)
    _sound_at: dict[str, int] = field(init=False)  # last step within bounds, by Watch.kind
    _trouble: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._evaluations = list(self.record.rows("eval"))
        rows = self.record.rows("timing")
        self._logged_seconds = float(rows[-1]["wall_time"] or 0) if rows else 0.0
        self.seconds = max(self.seconds, self._logged_seconds)
        self._trouble = list((self.record.summary() or {}).get("trouble", ()))
        self._sound_at = {watch.kind: 0 for watch in self._watches}
        for row in self.record.rows("train"):
            for watch in self._watches:
                if not any(watch.out_of_bounds(row)):
                    self._sound_at[watch.kind] = int(row["step"] or 0)

    @cached_property
    def _watches(self) -> list[Watch]:
        return [Watch(**entry) for entry in self.facts["watches"]]

    @property
    def last_return(self) -> float | None:
        """The last evaluation's mean return."""
        return self._evaluations[-1]["return_mean"] if self._evaluations else None

    @property
    def resume_command(self) -> str:
        """The command that resumes this run; of a run in a sweep, the sweep's without its keys."""
        folder, key = self.record.folder, "hydra.run.dir"
        words = [w for w in shlex.split(self.facts["command"]) if not w.startswith("resume=")]
        if sweep := sweep_of(folder):
            folder, key, words = sweep, "hydra.sweep.dir", ["bcq_exp", "train", "-m", "..."]
        is_named = folder.parent.name == "multirun"
        name = f'"{folder.name}"' if "," in folder.name else folder.name  # as Hydra reads text
        where = f"name={name}" if is_named else f"{key}={folder}"
        return shlex.join(words if where in words else [*words, where])

    def log_training(self, step: int, statistics: Mapping[str, float | None], taken: int) -> None:
        """Record a row of training metrics, averaged over the ``taken`` steps since the last."""
        rate = taken / (self.seconds - self._logged_seconds)
        self._logged_seconds = self.seconds
        row = {"step": step, **statistics}
        self.record.append("train", row)
        self.record.append(
            "timing", {"step": step, "wall_time": self.seconds, "steps_per_second": rate}
        )
        self.tracker.log("train", row)
        self._look_for_trouble(step, statistics)

    def _look_for_trouble(self, step: int, statistics: Mapping[str, float | None]) -> None:
        """Log once each metric that was out of bounds for LASTING_STEPS, and what to try."""
        trouble = []
        for watch in self._watches:
            excess = next(watch.out_of_bounds(statistics), None)
            sound_at = self._sound_at[watch.kind]
            if excess is None:
                self._sound_at[watch.kind] = step
            elif watch.kind in self._trouble:
                trouble.append(watch.kind)
            elif step - sound_at >= LASTING_STEPS:
                trouble.append(watch.kind)
                advice = f"; try {watch.remedy}" if watch.remedy else ""
                self.log.warning("%s: %s, since step %d%s", watch.kind, excess, sound_at, advice)
        self._trouble = trouble

    def is_due(self, step: int) -> bool:
        """Whether it is to be evaluated after ``step``: it can be, and this step has no row."""
        done = self._evaluations[-1]["step"] if self._evaluations else None
        return self.evaluator is not None and done != step

    def evaluate(
        self, step: int, algorithm: OfflineAlgorithm, is_stopped: Callable[[], bool]
    ) -> None:
        """Evaluate and record a row; an error fails this run alone.

        Args:
            is_stopped: called at every step of the environments; once it is true, the evaluation
                ends and no row is written.
        """
        assert self.evaluator is not None
        try:
            results = self.evaluator.evaluate(Agent.of(algorithm, self.normalizer), is_stopped)
        except Stopped:
            return
        except Exception as error:
            self.log.debug("evaluation failed", exc_info=True)
            self.fail(step, f"evaluation failed at step {step}: {type(error).__name__}: {error}")
            return
        row = {
            "step": step,
            "return_mean": results.return_mean,
            "return_std": results.return_std,
            "normalized_score": self.normalized_score(results.return_mean),
            "length_mean": results.length_mean,
            "discounted_return_mean": results.discounted_return_mean,
            "value_mean": results.value_mean,
        }
        self._evaluations.append(row)
        self.record.append_episodes(step, results.returns, results.lengths)
        self.record.append("eval", row)
        self.tracker.log("eval", row)
        self.write_summary("running", step)
        score = row["normalized_score"]
        self.log.info(
            "step %d: return %s ± %s%s over %s",
            step,
            *numbers(results.return_mean, results.return_std),
            "" if score is None else f" (normalized {score:.1f})",
            counted(len(results.returns), "episode"),
        )

    def save(self, step: int, engine_state: dict[str, Any], window: Tensor) -> None:
        """Save the checkpoint after ``step``; ``window`` is as of :class:`checkpoint.Checkpoint`.

        Raises:
            CannotWrite: if the system refuses.
        """
        checkpoint.save(
            self.record.checkpoint,
            {
                "format": checkpoint.FORMAT,
                "step": step,
                "config": self.facts["config"],
                "engine": engine_state,
                "window": window,
                "seconds": self.seconds,
                "normalization": None if self.normalizer is None else self.normalizer.state_dict(),
                "environment": dict(self.environment),
                "record": self.record.marks(lasting=True),
            },
        )

    def fail(self, step: int, reason: str) -> None:
        """End this run as failed; its files stay in place."""
        self.failure = reason
        self.log.error("failed: %s", reason)
        self.finish("failed", step)

    def finish(self, status: str, step: int) -> None:
        """End this run as completed, stopped, interrupted or failed."""
        summary = self.write_summary(status, step)
        self.tracker.finish(summary)
        if status == "completed":
            self._report(summary)

    def abandon(self) -> None:
        """End this run without writing; its files stay as they are."""
        self.tracker.finish(None)

    def note_tracker(self) -> None:
        """Record the id of its W&B run, where that became known only after the end."""
        self.record.note_wandb_id(self.tracker.id)

    def write_summary(self, status: str, step: int) -> dict[str, Any]:
        """Write and return ``summary.json`` as of ``step``."""
        known = [row for row in self._evaluations if not isnan(row["return_mean"])]
        summary = {
            "status": status,
            "failure": self.failure,
            "step": step,
            "trouble": self._trouble,
            "last": self._evaluations[-1] if self._evaluations else None,
            "best": max(known, key=lambda row: row["return_mean"], default=None),
            "wall_time": round(self.seconds, 3),
            "steps_per_second": round(step / self.seconds, 2) if self.seconds else None,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "process": this_process(),
            "wandb_id": self.tracker.id,
            **self.facts,
        }
        self.record.write_summary(summary)
        return summary

    def _report(self, summary: Mapping[str, Any]) -> None:
        data, folder = summary["dataset"], shortest(self.record.folder)
        rows = {which: row for which in ("last", "best") if (row := summary[which]) is not None}
        behaviour, *returns = numbers(
            data["behaviour_return"], *(row["return_mean"] for row in rows.values())
        )
        lines = [
            "",
            *_behaviour(data, behaviour),
            *(
                f"  {summary['algorithm'] + ', ' + which:18}  {text:>10}   step {row['step']}"
                for text, (which, row) in zip(returns, rows.items(), strict=True)
            ),
            f"  files               {folder}",
            f"  report              bcq_exp compare {shlex.quote(str(folder))}",
        ]
        for line in lines:
            self.log.info(line)


def _behaviour(data: Mapping[str, Any], mean: str) -> list[str]:
    """The line of the behaviour policy, if its return is recorded."""
    if not mean:
        return []
    cut = f", {data['cut_episodes']} of them cut short" if data.get("cut_episodes") else ""
    return [
        f"  behaviour's return  {mean:>10}   mean of {counted(data['num_episodes'], 'episode')} "
        f"of {data['id']}{cut}"
    ]


def run_log(folder: Path) -> logging.Logger:
    """Return a logger of one run among several: to run.log, not to the terminal."""
    logger = logging.Logger(folder.name, logging.INFO)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    logger.addHandler(handler)
    return logger
