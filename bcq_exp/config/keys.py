"""What a key of the configuration may be and what it means, said once: where the schema has it."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from bcq_exp.ranges import Allowed


@dataclass(frozen=True)
class Meaning:
    """What a key is to a run, to a stack of runs, and to a report.

    Args:
        identity: it says what is learnt: another value is another run, which a folder refuses.
        may_differ: stacked runs may differ in it.
        compared: reports tell runs apart by it.
    """

    identity: bool = True
    may_differ: bool = False
    compared: bool = True


LEARNING = Meaning()
STACKING = Meaning(may_differ=True)  # a number of the equations, or what each run has of its own
WATCHING = Meaning(identity=False, may_differ=True, compared=False)  # its name, its dashboard
EXTENDING = Meaning(identity=False)  # how far it goes
PLACING = Meaning(identity=False, compared=False)  # on what
MEASURING = Meaning(compared=False)  # how often it is looked at
EVALUATING = Meaning(may_differ=True, compared=False)


def key(
    values: Allowed | None = None,
    default: Any = MISSING,
    meaning: Meaning | None = None,
    *,
    length: int | None = None,
    schema: type | None = None,
    doc: str | None = None,
) -> Any:
    """A field of a schema.

    Args:
        values: what it may be; of a list, each element, of which it holds ``length``, or at least
            one.
        meaning: where it is another than the schema's own ``meaning``, or the node's above.
        schema: of a node, for readers of stored configurations, which have no types.
        doc: its meaning for people, where no choice file says it.
    """
    metadata = {
        "allowed": values, "length": length, "meaning": meaning, "schema": schema, "doc": doc,
    }  # fmt: skip
    return field(default="???" if default is MISSING else default, metadata=metadata)


def schema_of(node: Any) -> dict[str, Field]:
    """The fields of a node's schema, or of a schema, by name; empty for a node without one."""
    schema: Any = OmegaConf.get_type(node) if OmegaConf.is_config(node) else node
    return _fields(schema)


@cache
def _fields(schema: Any) -> dict[str, Field]:
    return {f.name: f for f in fields(schema)} if is_dataclass(schema) else {}
