"""Validate a composed configuration by its schema."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.containers import plain
from bcq_exp.config.identity import flattened
from bcq_exp.config.keys import schema_of
from bcq_exp.config.schema import RunConfig, source
from bcq_exp.errors import UserError
from bcq_exp.internals import content
from bcq_exp.ranges import COUNT, PATH, Range

_NOUNS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string"}
_REPLACED = {  # keys and choices of earlier versions, as patterns, and what replaced them
    r"trainer\.(capture|compile)": "trainer.engine=auto|eager|xla|cuda_graph",
    r"hydra\.launcher\.workers\.count": "hydra.launcher.num_workers",
    r"hydra\.launcher\.workers\.n_jobs": "hydra.launcher.n_jobs",
    r"hydra\.launcher\.workers\.((?:init|remote)(?:\..+)?)": r"hydra.launcher.ray.\1",
    r"hydra\.launcher\.workers\.parameters\.(?:slurm_)?(.+)": r"hydra.launcher.\1",
    r"hydra\.sweeper\.num_trials": "hydra.sweeper.n_trials",
    r"hydra\.sweeper\.batch_size": "hydra.sweeper.n_jobs",
    r"hydra\.sweeper\.seed": "hydra.sweeper.sampler.seed",
    r"hydra\.sweeper\.sampler=(\w+)": r"hydra/sweeper/sampler=\1",
    r"(actor|critic|vae)=(small|paper|tianshou)": r"networks=\2, or \1.hidden_sizes=[...]",
    r"(deterministic|gaussian)_actor@actor=(\w+)": r"actor=\1, with its sizes in networks=\2",
    r"state_critic@critic=(\w+)": r"critic=state, with its sizes in networks=\1",
    r"state_critic@(\w+)=(\w+)": r"critic@\1=state, with its sizes in networks=\2",
    r"dataset=online": "online=explore",
    r"dataset\.(start_steps|noise_std)": r"online.\1",
    r"sweep=asha_(\w+)": r"sweep=halving_\1",
}


def check(config: DictConfig) -> dict[str, Any]:
    """Validate every key and value of a composed configuration.

    Returns the resolved values in Python's containers.

    Raises:
        UserError: one line naming the first key that is unknown, lacks a value, or is out of its
            range, and what is allowed.
    """
    root = schema_of(config) or schema_of(RunConfig)
    for name in root.keys() - config.keys():
        raise UserError(f"{name}: must not be removed")
    _check_nodes(config, root)
    values = {  # in Python's containers, which are faster to walk
        str(name): "???" if OmegaConf.is_missing(config, name) else plain(config[name])
        for name in config
        if name != "hydra"
    }
    for key, value, schema_field in _leaves(config, values, "", root):
        if value == "???":
            raise UserError(f"{key}: has no value; give {key}=...")
        if schema_field is not None and not _is_allowed(value, schema_field):
            raise UserError(wrong(key, value, schema_field))
    return values


def _check_nodes(config: DictConfig, root: Mapping[str, Field]) -> None:
    """Check that no file empties a node.

    Raises:
        UserError: naming the node.
    """
    for name, schema_field in root.items():
        is_node = bool(schema_field.metadata.get("schema")) or name == "algo"
        is_data = name in ("dataset", "online")  # one of which is null
        if is_node and not OmegaConf.is_dict(source(config) if is_data else config[name]):
            raise UserError(f"{name}: must have keys; give it some, or delete it in its file")


def check_folders(config: DictConfig, *, is_sweep: bool) -> Path:
    """Validate the paths that Hydra writes to; return the folder of the run or sweep.

    ``hydra.run.dir`` of a sweep and ``hydra.sweep.dir`` of a run are not resolved: with
    ``resume=true`` there may be none.

    Raises:
        UserError: one line naming the first key that is empty, which Hydra would take for the
            current folder.
    """
    hydra = config.hydra
    key = "sweep.dir" if is_sweep else "run.dir"
    folder = str(OmegaConf.select(hydra, key))
    places = {key: folder, "output_subdir": hydra.output_subdir}
    if is_sweep:
        places["sweep.subdir"] = content(content(hydra.sweep)["subdir"])  # resolved for each run
    for name, value in places.items():
        if value is not None and value not in PATH:
            raise UserError(f"hydra.{name}={value}: must be {PATH}")
    return Path(folder)


def check_plugins(hydra: DictConfig) -> None:
    """Validate launcher and sweeper by their schemas.

    Raises:
        UserError: one line naming the first key that was renamed, or is out of its range.
    """
    for name in ("launcher", "sweeper"):
        node = hydra[name]
        if not (OmegaConf.is_dict(node) and "_target_" in node):
            raise UserError(f"hydra.{name}: must be one of the choices of hydra/{name}=NAME")
        values: Any = OmegaConf.to_container(node)
        for key, value in flattened(values, f"hydra.{name}."):
            if line := replaced(key) or replaced(f"{key}={value}"):
                raise UserError(line)
        size = node.get("max_batch_size")
        if not (size is None or (isinstance(size, int) and size in COUNT)):
            raise UserError(
                f"hydra.{name}.max_batch_size={size}: must be an integer {COUNT}, or null"
            )
        for field_name, schema_field in schema_of(node).items():
            value = values[field_name]
            is_said = value == "???" or OmegaConf.is_interpolation(node, field_name)
            if not is_said and not _is_allowed(value, schema_field):
                raise UserError(wrong(f"hydra.{name}.{field_name}", value, schema_field))


def check_learning_begins(end: str, num_steps: int, start: str, start_steps: int) -> None:
    """Check that an agent's random steps end before its last step.

    Args:
        end, start: what the numbers are, for the message.

    Raises:
        UserError: if they do not.
    """
    if num_steps <= start_steps:
        raise UserError(
            f"{end}={num_steps}: must be above {start}={start_steps}, the steps before learning "
            "begins"
        )


def replaced(given: str) -> str | None:
    """The message for a key, or ``GROUP=CHOICE``, of earlier versions; ``None`` for others."""
    for pattern, successor in _REPLACED.items():
        if found := re.fullmatch(pattern, given):
            return f"{given} was replaced by {found.expand(successor)}"
    return None


def unknown(key: str, names: Iterable[str], owner: str = "") -> str:
    """The message for an unknown key: its successor, or the keys (``names``) that exist."""
    if line := replaced(key):
        return line
    shown = sorted({*names} - {"_target_", "hydra"})
    return f"{key}: no such key{owner}; there are {', '.join(shown) or 'none'}"


def elsewhere(name: str, node: DictConfig) -> str:
    """Suggest the key of that name below a node."""
    keys = (key for key, _ in flattened(OmegaConf.to_container(node)))  # type: ignore[arg-type]
    found = (key for key in keys if key.endswith(f".{name}") and not key.startswith("hydra."))
    return next((f"; did you mean {key}?" for key in found), "")


def wrong(key: str, value: Any, schema_field: Field) -> str:
    """The message for a value that a key may not have: what is allowed, and a suggestion."""
    shown = json.dumps(value) if isinstance(value, list | bool | None) else str(value)
    return f"{key}={shown}: must be {describe(schema_field)}{_meant(key, shown, schema_field)}"


def _meant(key: str, value: str, schema_field: Field) -> str:
    kind = str(schema_field.type)
    if re.fullmatch(r"\[\[[^\]]*\]\]", value):
        return f"; write {key}={value[1:-1].replace(' ', '')}"
    if value == "[]":
        return ""
    if value.startswith("[") and (not kind.startswith("list") or value.startswith("[[")):
        return f"; to sweep, write {key}={value[1:-1].replace(' ', '')} with -m"
    if kind.startswith("list[str]") and not value.startswith("[") and value.strip("'\""):
        text = re.sub(r"""^(['"])(.*)\1$""", r"\2", value)
        element = text if re.fullmatch(r"[\w.+-]+", text) else json.dumps(text)
        return f"; write {shlex.quote(f'{key}=[{element}]')}"
    if kind.startswith("int"):
        with suppress(ValueError, OverflowError):  # not a finite number
            if float(value).is_integer() and _is_allowed(int(float(value)), schema_field):
                return f"; write {int(float(value))}"
    return ""


def describe(schema_field: Field) -> str:
    """Describe the values of a key: type and range."""
    if not isinstance(schema_field.type, str) and "allowed" not in schema_field.metadata:
        return _of_hydra(schema_field.type)
    kind = str(getattr(schema_field.type, "__name__", schema_field.type))
    optional = "None" in kind or schema_field.type is Any
    kind = kind.replace(" | None", "")
    values = schema_field.metadata.get("allowed")
    if kind.startswith("list"):
        length = schema_field.metadata.get("length") or "one or more"
        words = f"a list of {length} {'integers' if 'int' in kind else 'numbers'}"
        words = "a list of strings" if "str" in kind else words
        return words if values is None else f"{words}, each {values}"
    if values is None:
        return _NOUNS.get(kind, kind)
    words = f"{_NOUNS[kind]} {values}" if isinstance(values, Range) else str(values)
    return f"{words}, or null" if optional and isinstance(values, Range) else words


def documentation(name: str, node: DictConfig) -> str:
    """List the documented keys of a node with their values, in 80 columns."""
    lines = [
        textwrap.fill(
            f"  {f'{name}.{key}':<25}{known.metadata['doc']}: {describe(known)}",
            width=80,
            subsequent_indent=" " * 27,
        )
        for key, known in schema_of(node).items()
        if known.metadata.get("doc")
    ]
    return "\n".join(lines or ["  none"])


def _of_hydra(kind: Any) -> str:
    """Describe the values of a key of Hydra's schema."""
    if get_origin(kind) is Union:
        return _of_hydra(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(kind.__members__)}"
    if get_origin(kind) is list:
        return "a list"
    if is_dataclass(kind) or get_origin(kind) is dict:
        return "a node of keys, not a value"
    return _NOUNS.get(getattr(kind, "__name__", ""), "set")


def _is_allowed(value: Any, schema_field: Field) -> bool:
    values, length = schema_field.metadata.get("allowed"), schema_field.metadata.get("length")
    kind = str(schema_field.type)
    if kind == "int" and type(value) is not int:  # the root is not typed by Hydra
        return False
    if values is None or (value is None and "None" in kind):
        return True
    if isinstance(value, list):
        lengths = (length,) if length else range(0 if "str" in kind else 1, 100)
        return len(value) in lengths and all(element in values for element in value)
    return value in values and not kind.startswith("list")  # as an interpolation may be


def _leaves(
    node: DictConfig, values: Mapping[str, Any], prefix: str, known: dict[str, Field]
) -> Iterator[tuple[str, Any, Field | None]]:
    """Yield every leaf below a node: dotted key, value, and field of the schema if it has one.

    ``values`` is the content of the node.
    """
    for name, value in values.items():
        key = f"{prefix}{name!s}"
        values_of = known[name].metadata.get("allowed") if name in known else None
        is_node = isinstance(value, dict) and values_of is None
        if (
            known and name not in known and not (is_node and not prefix)
        ):  # hyperparameters belong to the algorithm's schema
            if "." in name:
                raise UserError(f"{key}: a key in a file has no dots; nest it, one key per line")
            if ":" in name:
                raise UserError(f"{key}: needs a space after its colon")
            if value is None and not prefix:
                raise UserError(f"{name}: must have keys; give it some, or delete it in its file")
            raise UserError(unknown(key, known) + elsewhere(str(name), node))
        if is_node:
            yield from _leaves(node[name], value, f"{key}.", schema_of(node[name]))
        else:
            yield key, value, None if value == "???" else known.get(str(name))
