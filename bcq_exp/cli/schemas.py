"""The configuration's files and schemas, including the algorithms' hyperparameters."""

from __future__ import annotations

from pathlib import Path

import bcq_exp
from bcq_exp.algorithm.hyperparameters import ALGORITHMS
from bcq_exp.config import schema
from bcq_exp.config.keys import schema_of
from bcq_exp.config.plugin_schema import PLUGIN_SCHEMAS

LIST, NUMBER = "list", "number"  # kinds of keys
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


def kind_of(key: str) -> str | None:
    """``LIST`` or ``NUMBER``, if every schema with a dotted key's last part has such a key."""
    name = key.rpartition(".")[2]
    nodes = (schema.RunConfig, *{**schema.SCHEMAS, **PLUGIN_SCHEMAS, **SCHEMAS}.values())
    found = [str(known[name].type) for known in map(schema_of, nodes) if name in known]
    kinds = {kind.partition("[")[0].partition(" ")[0] for kind in found}
    if kinds == {"list"}:
        return LIST
    return NUMBER if kinds and kinds <= {"int", "float"} else None
