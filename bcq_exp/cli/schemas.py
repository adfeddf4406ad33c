"""The schemas of the configuration, those of the algorithms' hyperparameters included."""

from __future__ import annotations

from bcq_exp.algorithm.hyperparameters import ALGORITHMS
from bcq_exp.config import schema

SCHEMAS = {name: schema.of_hyperparameters(own, __name__) for name, own in ALGORITHMS.items()}
globals().update({each.__name__: each for each in SCHEMAS.values()})  # where pickle finds them


def register() -> None:
    """Make them and the resolvers known to Hydra; call before composing."""
    schema.register(SCHEMAS)
