"""Folders of runs made up in no time: the files of real ones, with chosen numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from bcq_exp.algorithm.alerts import DEAD_VAE, Watch, diverging_q
from bcq_exp.algorithm.bcq import BCQ
from bcq_exp.training.folders import this_process
from bcq_exp.training.record import RunRecord
from tests.commands import compose

WATCHES = (
    diverging_q("q1_mean", "q2_mean"),
    DEAD_VAE,
    Watch("perturbation at phi", ("perturbation_abs_mean",), above=0.095),
)
CONFIG: dict[str, Any] = OmegaConf.to_container(compose(), resolve=True)  # type: ignore[assignment]


def make_run(
    folder: Path,
    returns: list[float],
    *,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    num_rows: int = 20,
    dataset: str = "made/up-v0",
    behaviour_return: float = 5.0,
    scored: bool = False,
    statistics: Sequence[str] = tuple(BCQ.statistics()),
    training: Mapping[str, Any] | None = None,
    evaluated: Mapping[str, float] | None = None,
    dataset_facts: Mapping[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """A run of 1000 steps an evaluation, whose evaluations returned ``returns``.

    ``changes`` are configuration values by dotted key, ``statistics`` columns of train.csv,
    ``training`` further ones (num_rows,) or constants, ``evaluated`` further ones of eval.csv,
    ``summary`` entries of summary.json, ``dataset_facts`` of its ``dataset``. ``scored`` gives
    every return a normalized score, the return itself.
    """
    folder.mkdir(parents=True)
    config = copy.deepcopy(CONFIG)
    steps = 1000 * len(returns)
    for key, value in {
        "seed": seed,
        "trainer.num_steps": max(steps, 1000),
        **(changes or {}),
    }.items():
        *above, name = key.split(".")
        reduce(lambda node, part: node.setdefault(part, {}), above, config)[name] = value
    record = RunRecord(folder)
    rng = np.random.default_rng(seed)
    for number in range(1, num_rows + 1):
        step = number * max(steps, 1000) // num_rows
        values = {name: float(rng.normal(1, 0.1)) for name in statistics}
        if "perturbation_abs_mean" in values:
            values["perturbation_abs_mean"] = 0.05
        for name, column in (training or {}).items():
            values[name] = float(column[number - 1] if np.ndim(column) else column)
        record.append("train", {"step": step, **values})
        record.append("timing", {"step": step, "wall_time": step / 100, "steps_per_second": 100.0})
    evaluations: list[dict[str, Any]] = [
        {
            "step": 1000 * (i + 1),
            "return_mean": value,
            "return_std": 1.0,
            "normalized_score": value if scored else None,
            "length_mean": 200.0,
            **(evaluated or {}),
        }
        for i, value in enumerate(returns)
    ]
    for row in evaluations:
        record.append("eval", row)
    record.write_summary(
        {
            "status": "completed",
            "failure": None,
            "step": steps,
            "last": evaluations[-1] if evaluations else None,
            "best": max(evaluations, key=lambda row: row["return_mean"], default=None),
            "wall_time": steps / 100,
            "steps_per_second": 100.0,
            "process": this_process(),
            "seed": seed,
            "algorithm": "BCQ",
            "losses": list(BCQ.losses()),
            "watches": [asdict(watch) for watch in WATCHES],
            "dataset": {
                "id": dataset,
                "content_hash": f"hash of {dataset}",
                "num_transitions": 10,
                "num_episodes": 2,
                "behaviour_return": behaviour_return,
                **(dataset_facts or {}),
            },
            "command": f"bcq_exp train seed={seed}",
            "versions": {"torch": "2.13.0", "mujoco": None},
            "git_commit": "abc",
            "config_hash": f"{seed}",
            "reference_scores": [0.0, 100.0] if scored else None,
            "config": config,
            **summary,
        }
    )
    return folder


def make_grid(folder: Path, *, num_seeds: int = 3, num_rows: int = 20, **kwargs: Any) -> Path:
    """lmbda in 0.5, 1 and tau in 0.001, 0.01: a return is 10 * lmbda + seed, and 100 * tau more."""
    for lmbda in (0.5, 1.0):
        for tau in (0.001, 0.01):
            for seed in range(num_seeds):
                final = 10 * lmbda + seed + 100 * tau
                make_run(
                    folder / f"algo.lmbda={lmbda},algo.tau={tau},seed={seed}",
                    [final / 2, final],
                    seed=seed,
                    changes={"algo.lmbda": lmbda, "algo.tau": tau},
                    num_rows=num_rows,
                    **kwargs,
                )
    return folder
