"""A trained run's checkpoint as an agent that acts, without its data set."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from bcq_exp.config.schema import hidden_sizes
from bcq_exp.data import environments
from bcq_exp.data.behaviour import Behaviour
from bcq_exp.data.environments import EnvMaker
from bcq_exp.engine.placement import place
from bcq_exp.errors import UserError
from bcq_exp.training import checkpoint
from bcq_exp.training.evaluation import Agent, EpisodeResults, ObsNormalizer
from bcq_exp.training.parts import build_algorithm
from bcq_exp.training.record import RunRecord, write_atomically


def load_agent(folder: str | Path, device: str = "auto") -> tuple[Agent, EnvMaker]:
    """The agent of a run's checkpoint, and what makes its environment.

    Raises:
        UserError: if there is no readable checkpoint, or no such device.
    """
    saved = _checkpoint(folder)
    cfg: Any = OmegaConf.create(saved["config"])
    cfg.trainer.device = device
    placement = place(cfg.trainer, hidden_sizes(cfg))
    spaces = environments.spaces_of_state(saved["environment"])
    algorithm = build_algorithm(cfg, *spaces, placement)
    algorithm.load_state_dict(saved["engine"]["algorithm"])
    scaling = saved["normalization"]
    normalizer = ObsNormalizer.from_state_dict(scaling) if scaling is not None else None
    make_env = partial(environments.from_state, saved["environment"])
    return Agent(algorithm.policy, normalizer), make_env


def load_collected(folder: str | Path) -> tuple[dict[str, np.ndarray], EnvMaker, str]:
    """Every step that a run with ``dataset=online`` has taken, what makes its environment, and how
    it explored, in words.

    Raises:
        UserError: if there is no readable checkpoint, or its run collected nothing.
    """
    saved = _checkpoint(folder)
    if "collected" not in saved["engine"]:
        raise UserError(f"run={folder}: it collected nothing; give a run with dataset=online")
    steps = {name: values.numpy() for name, values in saved["engine"]["collected"].items()}
    config = saved["config"]
    how = (
        f"{config['dataset']['start_steps']} random steps, then noise_std "
        f"{config['dataset']['noise_std']}, seed {config['seed']}"
    )
    return steps, partial(environments.from_state, saved["environment"]), how


def as_behaviour(agent: Agent, seed: int) -> Behaviour:
    """The agent as a policy that collects: one observation (O,) in, one action (A,) out."""
    generator = torch.Generator().manual_seed(seed)

    def behave(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return agent.act(obs[None], generator)[0]

    return behave


def save_evaluation(folder: str | Path, seed: int, results: EpisodeResults) -> Path:
    """Write an evaluation beside the run's other files, every episode of it; returns where."""
    path = Path(folder) / f"evaluation_{len(results.returns)}_episodes_seed_{seed}.json"
    content = {
        "step": _checkpoint(folder)["step"],
        "seed": seed,
        "return_mean": results.return_mean,
        "return_std": results.return_std,
        "length_mean": results.length_mean,
        "returns": results.returns.tolist(),
        "lengths": results.lengths.tolist(),
    }
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    return path


def _checkpoint(folder: str | Path) -> checkpoint.Checkpoint:
    record = RunRecord(Path(folder))
    if not record.checkpoint.exists():
        raise UserError(f"run={folder}: no checkpoint.pt there; give the folder of a trained run")
    return checkpoint.load(record.checkpoint)
