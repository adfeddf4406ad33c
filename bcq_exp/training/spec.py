"""A run to train: its configuration, resolved once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bcq_exp.config.checking import check_learning_begins
from bcq_exp.config.containers import plain
from bcq_exp.config.identity import cohort_signature, identity
from bcq_exp.config.keys import schema_of
from bcq_exp.config.schema import RunConfig, TrainerConfig, source
from bcq_exp.ranges import PATH
from bcq_exp.training.objective import Objective
from bcq_exp.training.progress import Part
from bcq_exp.training.record import RunRecord


@dataclass(frozen=True)
class AlgorithmSpec:
    """An algorithm to build.

    Args:
        target: the path of its class.
        hyperparameters: the numbers of the group ``algo``, by name.
        groups: the other groups that ``algo`` composes: networks, optimizers, ``policy``.
        seed: the seed of initial weights.
        num_steps: gradient steps that learning-rate schedules span.
    """

    target: str
    hyperparameters: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    seed: int
    num_steps: int

    @property
    def hidden_sizes(self) -> list[list[int]]:
        """The hidden layers of each network, if the configuration has them."""
        found = (group.get("hidden_sizes") for group in self.groups.values())
        return [sizes for sizes in found if isinstance(sizes, list)]

    @property
    def optimizers(self) -> str:
        """The settings of the optimizers, as text."""
        named = sorted(name for name in self.groups if name.endswith("_optim"))
        return json.dumps([self.groups[name] for name in named])


@dataclass(frozen=True)
class RunSpec:
    """One run to train; properties give typed views of its configuration.

    Args:
        config: as ``summary.json`` and checkpoints record it: resolved, in plain containers, its
            data at an absolute path.
        folder: the folder of the run.
        command: the command line for this run alone.
        shared: the settings that stacked runs must share, as text.
        is_alone: whether it is a single run; a run of a sweep logs to its own file.
        until: the step at which it stops for now; ``None`` is its end.
        chdir: whether it is trained in its folder (``hydra.job.chdir``), and so alone.
        part: the place of its group in the sweep that this process trains; ``None`` outside sweeps.
    """

    config: Mapping[str, Any]
    folder: Path
    command: str = ""
    shared: str = ""
    is_alone: bool = True
    until: int | None = None
    chdir: bool = False
    part: Part | None = None

    @classmethod
    def of(
        cls, cfg: DictConfig, folder: Path, command: str = "", cwd: str | None = None, **others: Any
    ) -> RunSpec:
        """Resolve a run's composed and checked configuration, without its ``hydra`` node.

        Args:
            cwd: the folder of the command, to which paths of data are relative.
            others: further fields.
        """
        config = plain(cfg)
        dataset = config["dataset"]
        for name, field in schema_of(cfg.dataset).items():
            if field.metadata.get("allowed") is PATH and dataset[name] is not None:
                dataset[name] = str(Path(cwd or os.getcwd(), os.path.expanduser(dataset[name])))
        return cls(config, folder, command, cohort_signature(config, cfg), **others)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The keys that determine results, dotted; a run resumes only with the same identity."""
        return identity(self.config)

    @property
    def seed(self) -> int:
        """The seed of all random numbers in training."""
        return self.config["seed"]

    @property
    def resume(self) -> bool | str:
        """How to treat an earlier run in the folder: true, false, auto or restart."""
        return self.config["resume"]

    @property
    def dataset(self) -> dict[str, Any]:
        """The group that names the data: ``online`` where the run explores, else ``dataset``."""
        return source(self.config)

    @property
    def is_online(self) -> bool:
        """Whether it learns from an environment that it explores."""
        return bool(self.config.get("online"))

    @cached_property
    def trainer(self) -> TrainerConfig:
        """The group ``trainer``."""
        known = schema_of(TrainerConfig)
        return TrainerConfig(**{k: v for k, v in self.config["trainer"].items() if k in known})

    @property
    def algorithm(self) -> AlgorithmSpec:
        """The groups that ``algo`` composes, and its numbers."""
        own, numbers = schema_of(RunConfig), dict(self.config["algo"])
        groups = {name: node for name, node in self.config.items() if name not in own}
        start_steps = self.dataset["start_steps"] if self.is_online else 0  # without gradient steps
        return AlgorithmSpec(
            target=numbers.pop("_target_"),
            hyperparameters=numbers,
            groups={name: node for name, node in groups.items() if isinstance(node, dict)},
            seed=self.seed,
            num_steps=max(1, self.trainer.num_steps - start_steps),
        )

    @cached_property
    def record(self) -> RunRecord:
        """The files of its folder."""
        return RunRecord(self.folder)

    @property
    def objective(self) -> Objective:
        """The number that sweepers maximize."""
        return Objective.of(self.trainer)

    def check(self, *, is_swept: bool = False) -> None:
        """Check keys against those of other groups.

        Args:
            is_swept: whether a sweeper needs the objective.

        Raises:
            UserError: if the objective is not defined for these data, or an agent would never
                learn.
        """
        self.objective.check(self.dataset, is_wanted=is_swept)
        if self.is_online:
            end = "trainer.num_steps" if self.until is None else "hydra.sweeper.rungs: first step"
            num_steps = self.until or self.trainer.num_steps
            start_steps = self.dataset["start_steps"]
            check_learning_begins(end, num_steps, "online.start_steps", start_steps)
