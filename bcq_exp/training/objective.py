"""The objective of a run: a number of its evaluation, or an off-policy estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import nan
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
        name: the name of the number.
        num_steps: the steps after which it is wanted; a run in the folder may have taken more.
        fqe: the settings of fitted Q evaluation, if that is the objective.
        is_asked_for: whether there is an objective: with ``trainer.eval_episodes=0`` only fitted Q
            evaluation gives one.
    """

    name: str
    num_steps: int
    fqe: FQESettings | None = None
    is_asked_for: bool = True

    @classmethod
    def of(cls, trainer: TrainerConfig) -> Objective:
        if trainer.objective == FQE:
            return cls(FQE, trainer.num_steps, FQESettings(num_steps=trainer.fqe_steps))
        is_asked_for = trainer.eval_episodes > 0
        return cls(trainer.objective, trainer.num_steps, is_asked_for=is_asked_for)

    def check(self, dataset: Mapping[str, Any], *, is_wanted: bool) -> None:
        """Check that the objective is defined for this task.

        Args:
            dataset: the group ``dataset``.
            is_wanted: whether a sweeper needs the objective.

        Raises:
            UserError: if it is not.
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
        """Check, before training, that the task has a scale if the objective is a score.

        Raises:
            UserError: if it has none.
        """
        is_score = self.name == "normalized_score" and self.is_asked_for
        if is_score and task.normalized_score(0.0) is None:
            raise self._unscored(task.id)

    def row(
        self, record: RunRecord, until: int | None = None, summary: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any] | None:
        """Return the evaluation or estimate with the objective; ``None`` if there is none.

        Args:
            record: the files of a run.
            until: the step of the evaluation; ``None`` is the last one, within ``num_steps``.
            summary: the run's summary, if it was read already.
        """
        summary = summary or record.summary()
        if summary is None:
            return None
        if self.fqe is not None:
            step = summary["step"] if until is None else until
            settings = {**asdict(self.fqe), "hidden_sizes": [*self.fqe.hidden_sizes]}
            own = (row for row in record.estimates() if row["settings"] == settings)
            return next((row for row in own if row["step"] >= step), None)  # it may be beyond
        if until is None and summary["step"] <= self.num_steps:
            return summary["last"]
        until = until or self.num_steps
        evaluations = record.rows("eval", summary["record"])
        return next((row for row in evaluations if row["step"] == until), None)

    def value(
        self, record: RunRecord, until: int | None = None, summary: Mapping[str, Any] | None = None
    ) -> float:
        """Return the objective of a trained run, NaN where none is asked for; see :meth:`row`.

        Raises:
            UserError: if the environment has no normalized score, the run went beyond the step
                without an evaluation there, or fitted Q evaluation diverged or is missing.
        """
        return self.number(self.row(record, until, summary), record) if self.is_asked_for else nan

    def number(self, row: Mapping[str, Any] | None, record: RunRecord) -> float:
        """Return the objective in a row that :meth:`row` found.

        Raises:
            UserError: as :meth:`value`.
        """
        value = None if row is None else row[self.name]
        if value is not None:
            return float(value)
        if self.fqe is not None:
            what = "has no estimate" if row is None else "fitted Q evaluation diverged"
            raise UserError(f"trainer.objective=fqe: {record.folder}: {what}")
        if row is None:
            raise UserError(
                f"trainer.num_steps={self.num_steps}: the run in {record.folder} has taken more "
                "steps, and has no evaluation after these; give its number of steps, or another "
                "name"
            )
        raise self._unscored(record.required_summary()["dataset"]["id"])

    def _unscored(self, dataset: str) -> UserError:
        return UserError(
            f"trainer.objective={self.name}: no reference scores are known for data set {dataset}; "
            "use return_mean"
        )
