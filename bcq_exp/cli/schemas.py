"""The configuration's files and schemas, including the algorithms' hyperparameters."""

from __future__ import annotations

from pathlib import Path

import bcq_exp
from bcq_exp.algorithm.hyperparameters import ALGORITHMS
from bcq_exp.config import schema

SCHEMAS = {name: schema.of_hyperparameters(own, __name__) for name, own in ALGORITHMS.items()}
globals().update({each.__name__: each for each in SCHEMAS.values()})  # pickle finds them here

# inside the package in an installed wheel, beside it in a checkout
_PACKAGE = Path(bcq_exp.__file__).parent
_CONF_PLACES = (_PACKAGE / "conf", _PACKAGE.parent / "conf")


def conf_folder() -> Path:
    """Return the folder of the configuration's files."""
    return next(place for place in _CONF_PLACES if place.is_dir())


def register() -> None:
    """Register schemas and resolvers with Hydra; call before composing."""
    schema.register(SCHEMAS)
