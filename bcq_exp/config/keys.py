"""The allowed values and the role of a configuration key, declared in the schema."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from bcq_exp.ranges import Allowed


@dataclass(frozen=True)
class KeyRole:
    """The effect of a key on a run's identity, on cohorts and on reports.

    Args:
        identity: another value makes another run, which an existing folder refuses.
        varies_in_cohort: runs that train together may differ in it.
        compared: reports group runs by it.
    """

    identity: bool = True
    varies_in_cohort: bool = False
    compared: bool = True


LEARNING = KeyRole()
PER_RUN = KeyRole(varies_in_cohort=True)  # a hyperparameter that is a number, or the seed
WATCHING = KeyRole(identity=False, varies_in_cohort=True, compared=False)  # name and logging
EXTENDING = KeyRole(identity=False)  # the number of steps
PLACING = KeyRole(identity=False, compared=False)  # device, threads, executor
MEASURING = KeyRole(compared=False)  # intervals of logging, evaluation and checkpoints
EVALUATING = KeyRole(varies_in_cohort=True, compared=False)  # an evaluation's episodes, seed


def key(
    values: Allowed | None = None,
    default: Any = MISSING,
    role: KeyRole | None = None,
    *,
    length: int | None = None,
    schema: type | None = None,
    doc: str | None = None,
) -> Any:
    """A field of a schema.

    Args:
        values: the allowed values; for a list, of each of its ``length`` elements, or of one or
            more.
        role: by default the schema's own ``role``, or that of the node above.
        schema: the schema of a node, for readers of stored configurations, which have no types.
        doc: the meaning, for ``--help``, if no choice file has it.
    """
    metadata = {
        "allowed": values, "length": length, "role": role, "schema": schema, "doc": doc,
    }  # fmt: skip
    return field(default="???" if default is MISSING else default, metadata=metadata)


def schema_of(node: Any) -> dict[str, Field]:
    """The fields of a node's schema, or of a schema, by name; empty for a node without one."""
    schema: Any = OmegaConf.get_type(node) if OmegaConf.is_config(node) else node
    return _fields(schema)


@cache
def _fields(schema: Any) -> dict[str, Field]:
    return {f.name: f for f in fields(schema)} if is_dataclass(schema) else {}
