"""The files of the configuration, and its schemas with those of the algorithms' hyperparameters."""

from __future__ import annotations

from pathlib import Path

import bcq_exp
from bcq_exp.algorithm.hyperparameters import ALGORITHMS
from bcq_exp.config import schema

SCHEMAS = {name: schema.of_hyperparameters(own, __name__) for name, own in ALGORITHMS.items()}
globals().update({each.__name__: each for each in SCHEMAS.values()})  # where pickle finds them

# inside the package in an installed wheel, beside it in a checkout
_PACKAGE = Path(bcq_exp.__file__).parent
_CONF_PLACES = (_PACKAGE / "conf", _PACKAGE.parent / "conf")


def conf_folder() -> Path:
    """Where the configuration's files are."""
    return next(place for place in _CONF_PLACES if place.is_dir())


def register() -> None:
    """Make them and the resolvers known to Hydra; call before composing."""
    schema.register(SCHEMAS)
