"""bcq_exp: BCQ experiments (arXiv:1812.02900), configured by Hydra, tracked by W&B."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcq_exp.algorithm.base import TrainingStats
    from bcq_exp.algorithm.batch import Batch
    from bcq_exp.algorithm.bcq import BCQ, BCQPolicy, BCQTrainingStats
    from bcq_exp.algorithm.networks import VAE, Critic, Perturbation
    from bcq_exp.algorithm.optim import AdamOptimizerFactory, OptimizerFactory
    from bcq_exp.data.transitions import Transitions
    from bcq_exp.training.restore import load_policy

__version__ = "0.2.0"

_HOME = {  # name -> module, imported when first asked for: the command line must not wait for torch
    "Batch": "bcq_exp.algorithm.batch",
    "TrainingStats": "bcq_exp.algorithm.base",
    "BCQ": "bcq_exp.algorithm.bcq",
    "BCQPolicy": "bcq_exp.algorithm.bcq",
    "BCQTrainingStats": "bcq_exp.algorithm.bcq",
    "Critic": "bcq_exp.algorithm.networks",
    "Perturbation": "bcq_exp.algorithm.networks",
    "VAE": "bcq_exp.algorithm.networks",
    "AdamOptimizerFactory": "bcq_exp.algorithm.optim",
    "OptimizerFactory": "bcq_exp.algorithm.optim",
    "Transitions": "bcq_exp.data.transitions",
    "load_policy": "bcq_exp.training.restore",
}

__all__ = [
    "BCQ",
    "VAE",
    "AdamOptimizerFactory",
    "BCQPolicy",
    "BCQTrainingStats",
    "Batch",
    "Critic",
    "OptimizerFactory",
    "Perturbation",
    "TrainingStats",
    "Transitions",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
