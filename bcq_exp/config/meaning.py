"""What the keys of a run's configuration mean: read off its schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.keys import LEARNING, WATCHING, Meaning, schema_of
from bcq_exp.config.schema import RunConfig, in_present_keys
from bcq_exp.ranges import CONSTANT


def flattened(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a resolved configuration with its dotted key."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def identity(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration by dotted keys, those alone that say what is learnt.

    A learning rate that follows a schedule depends on the number of steps as well.
    """
    kept = {key: value for key, value, meaning in _meanings(resolved) if meaning.identity}
    for node in resolved.keys() - schema_of(RunConfig).keys():  # those that algo composes
        if (schedule := kept.get(f"{node}.schedule", CONSTANT)) != CONSTANT:
            kept[f"{node}.schedule"] = f"{schedule} over {resolved['trainer']['num_steps']} steps"
    return kept


def trained(resolved: Mapping[str, Any]) -> str:
    """All of a stored configuration that bears on a run's training, or where it is, as text."""
    leaves = {key: value for key, value, meaning in _meanings(resolved) if meaning != WATCHING}
    return json.dumps(leaves, sort_keys=True)


def compared(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration by dotted keys, those alone that reports tell runs apart by."""
    return {key: value for key, value, meaning in _meanings(resolved) if meaning.compared}


def noted(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration by dotted keys, those alone that reports name where runs differ in
    them, though they do not tell runs apart by them: how runs were measured, and where."""
    return {
        key: value
        for key, value, meaning in _meanings(resolved)
        if not meaning.compared and meaning != WATCHING
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The dotted keys in which two configurations differ, each in words.

    A stored ``true`` or ``false`` is what was decided for ``auto``.
    """
    return {
        key: f"{key} ({old.get(key)} -> {new.get(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not (isinstance(old.get(key), bool) and new.get(key) == "auto")
    }


def shared_by_stack(resolved: Mapping[str, Any], cfg: DictConfig) -> str:
    """What a run has to agree in with those it is stacked with, as text.

    ``cfg`` is its configuration as composed, whose schemas say more.
    """
    leaves = _meanings(resolved, cfg)
    shared = {key: value for key, value, meaning in leaves if not meaning.may_differ}
    return json.dumps(shared, sort_keys=True)


def config_hash(resolved: Mapping[str, Any]) -> str:
    """A short digest of :func:`identity`: equal for runs that learn the same."""
    canonical = json.dumps(identity(resolved), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _meanings(
    stored: Mapping[str, Any], node: DictConfig | None = None
) -> Iterator[tuple[str, Any, Meaning]]:
    """Every leaf of a stored configuration: its dotted key, its value, what it means.

    ``node`` is the composed one that it was stored from, whose schemas say more.
    """
    return _below(in_present_keys(stored), RunConfig, LEARNING, "", node)


def _below(
    stored: Mapping[str, Any], schema: Any, above: Meaning, prefix: str, node: DictConfig | None
) -> Iterator[tuple[str, Any, Meaning]]:
    typed = None if node is None else OmegaConf.get_type(node)
    schema = typed if is_dataclass(typed) else schema
    known, above = schema_of(schema), getattr(schema, "meaning", above)
    for name, value in stored.items():
        metadata = known[name].metadata if name in known else {}
        meaning = metadata.get("meaning") or above
        if isinstance(value, dict):
            below = None if node is None else node[name]
            yield from _below(value, metadata.get("schema"), meaning, f"{prefix}{name}.", below)
        else:
            yield f"{prefix}{name}", value, meaning
