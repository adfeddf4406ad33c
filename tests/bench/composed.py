"""Our configuration and data for a benchmark, put together as ``python -m bcq_exp`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import bcq_exp
from bcq_exp.cli import schemas
from bcq_exp.config.checking import check
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.transitions import Transitions
from tests.bench import synthetic
from tests.bench.sizes import EPISODE_STEPS, Sizes


def compose_config(sizes: Sizes, overrides: Sequence[str]) -> DictConfig:
    """The checked configuration at these sizes; later overrides win."""
    schemas.register()
    conf = Path(bcq_exp.__file__).parents[1] / "conf"
    given = [
        *sizes.overrides,
        f"trainer.batch_size={sizes.batch}",
        f"algo.num_sampled_action={sizes.num_sampled_action}",
        *overrides,
    ]
    names = [override.partition("=")[0] for override in given]
    last = [text for i, text in enumerate(given) if names[i] not in names[i + 1 :]]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("config", overrides=last)
    check(cfg)
    return cfg


def dataset(sizes: Sizes) -> Dataset:
    """Synthetic data as the loaders hand it over."""
    rows = Transitions(**synthetic.transitions(sizes))
    num_episodes = len(rows) // EPISODE_STEPS
    return Dataset(
        id="bench/synthetic-v0",
        transitions=rows,
        observation_space=Box(-np.inf, np.inf, (sizes.obs_dim,), np.float32),
        action_space=Box(-sizes.max_action, sizes.max_action, (sizes.act_dim,), np.float32),
        env_spec=None,
        content_hash="",
        episode_returns=rows.rew.reshape(num_episodes, -1).sum(1, dtype=np.float64),
        episode_lengths=np.full(num_episodes, EPISODE_STEPS),
        episode_rows=np.full(num_episodes, EPISODE_STEPS),
        reference_scores=None,
    )
