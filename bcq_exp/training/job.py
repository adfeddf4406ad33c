"""A run that is to be trained, before any of it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.training.progress import Part


@dataclass(frozen=True)
class Job:
    """One run to train.

    Args:
        cfg: composed and checked; nothing in it waits to be resolved.
        folder: the run's own.
        command: what a person types for this run alone.
        is_alone: whether it is all the process does; a sweep's run keeps its words to its own log.
        until: the step at which it stops, so that it can go on later; ``None`` is its end.
        chdir: whether it is trained in its folder (``hydra.job.chdir``), and so by itself.
        part: what its group is of a sweep that this process trains.
    """

    cfg: DictConfig
    folder: Path
    command: str
    is_alone: bool = True
    until: int | None = None
    chdir: bool = False
    part: Part | None = None

    @property
    def title(self) -> str:
        """What to call it on the terminal and in W&B."""
        return self.folder.name
