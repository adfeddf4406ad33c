"""What a run is judged by: a number of its evaluation, or an estimate without the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.config.schema import TrainerConfig
from bcq_exp.errors import UserError
from bcq_exp.ranges import FQE
from bcq_exp.training.record import RunRecord

if TYPE_CHECKING:
    from bcq_exp.data.task import Task


@dataclass(frozen=True)
class Objective:
    """``trainer.objective``, which sweepers maximize.

    Args:
        name: of the number.
        fqe: of fitted Q evaluation, where it is that.
        is_asked_for: whether there is one: ``trainer.eval_episodes=0`` leaves none but that of
            fitted Q evaluation.
    """

    name: str
    fqe: FQESettings | None = None
    is_asked_for: bool = True

    @classmethod
    def of(cls, trainer: TrainerConfig) -> Objective:
        if trainer.objective == FQE:
            return cls(FQE, FQESettings(num_steps=trainer.fqe_steps))
        return cls(trainer.objective, is_asked_for=trainer.eval_episodes > 0)

    def check(self, dataset: Mapping[str, Any], *, is_wanted: bool) -> None:
        """Check that there will be one.

        Args:
            dataset: the group of that name.
            is_wanted: whether a sweeper chooses by it.

        Raises:
            UserError: if there will be none.
        """
        if self.fqe is not None and "holdout" not in dataset:
            raise UserError(
                "trainer.objective=fqe: needs held-out episodes, and this dataset has no holdout; "
                "use return_mean"
            )
        if self.fqe is not None and dataset["holdout"] is None:
            raise UserError(
                "trainer.objective=fqe: needs held-out episodes; set dataset.holdout to a share of "
                "them, such as 0.2"
            )
        if is_wanted and not self.is_asked_for:
            raise UserError(
                f"trainer.eval_episodes=0: trainer.objective={self.name} needs evaluations in the "
                "environment; use trainer.objective=fqe"
            )

    def check_known(self, task: Task) -> None:
        """See, before anything is trained, that it is known of what learns this task.

        Raises:
            UserError: if it is a score and the task has no scale.
        """
        is_score = self.name == "normalized_score" and self.is_asked_for
        if is_score and task.normalized_score(0.0) is None:
            raise self._unscored(task.id)

    def row(
        self, folder: Path, until: int | None = None, summary: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any] | None:
        """The evaluation or estimate that has it; ``None`` if there is none.

        Args:
            folder: a run's.
            until: the step of the evaluation; ``None`` is the one that the run has reached.
            summary: the run's, where it was read already.
        """
        record = RunRecord(folder)
        summary = summary or record.summary()
        if summary is None:
            return None
        if self.fqe is not None:
            step = summary["step"] if until is None else until
            settings = {**asdict(self.fqe), "hidden_sizes": [*self.fqe.hidden_sizes]}
            own = (row for row in record.estimates() if row["settings"] == settings)
            return next((row for row in own if row["step"] >= step), None)  # it may be beyond
        if until is None:
            return summary["last"]
        evaluations = record.rows("eval", summary["record"])
        return next((row for row in evaluations if row["step"] == until), None)

    def value(
        self, folder: Path, until: int | None = None, summary: Mapping[str, Any] | None = None
    ) -> float:
        """Its value, of a run that has arrived, NaN where none is asked for; see :meth:`row`.

        Raises:
            UserError: if the environment has no normalized score, or fitted Q evaluation diverged
                or was not kept.
        """
        return self.number(self.row(folder, until, summary), folder) if self.is_asked_for else nan

    def number(self, row: Mapping[str, Any] | None, folder: Path) -> float:
        """Its value in what :meth:`row` found for a folder.

        Raises:
            UserError: as :meth:`value`.
        """
        value = None if row is None else row[self.name]
        if value is not None:
            return float(value)
        if self.fqe is not None:
            what = "has no estimate" if row is None else "fitted Q evaluation diverged"
            raise UserError(f"trainer.objective=fqe: {folder}: {what}")
        raise self._unscored(RunRecord(folder).required_summary()["dataset"]["id"])

    def _unscored(self, dataset: str) -> UserError:
        return UserError(
            f"trainer.objective={self.name}: no reference scores are known for data set {dataset}; "
            "use return_mean"
        )
