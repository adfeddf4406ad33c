"""Which keys of a configuration identify a run, group it in reports, or separate cohorts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.keys import LEARNING, WATCHING, KeyRole, schema_of
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
    """Return the values, by dotted key, that identify a run: another value makes another run.

    A learning rate with a schedule depends on the number of steps as well.
    """
    kept = {key: value for key, value, role in _roles(resolved) if role.identity}
    for node in resolved.keys() - schema_of(RunConfig).keys():  # groups that algo composes
        if (schedule := kept.get(f"{node}.schedule", CONSTANT)) != CONSTANT:
            kept[f"{node}.schedule"] = f"{schedule} over {resolved['trainer']['num_steps']} steps"
    return kept


def training_text(resolved: Mapping[str, Any]) -> str:
    """The values that affect training, including the device, as text; equal for equal runs."""
    leaves = {key: value for key, value, role in _roles(resolved) if role != WATCHING}
    return json.dumps(leaves, sort_keys=True)


def report_keys(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by dotted key, by which reports group runs."""
    return {key: value for key, value, role in _roles(resolved) if role.compared}


def annotation_keys(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by dotted key, that reports mention where runs differ but do not group by."""
    return {
        key: value
        for key, value, role in _roles(resolved)
        if not role.compared and role != WATCHING
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Describe each dotted key in which two configurations differ.

    A stored ``true`` or ``false`` may be the resolved value of ``auto``.
    """
    return {
        key: f"{key} ({old.get(key)} -> {new.get(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not (isinstance(old.get(key), bool) and new.get(key) == "auto")
    }


def cohort_signature(resolved: Mapping[str, Any], cfg: DictConfig) -> str:
    """The values that runs of a cohort must share, as text.

    Args:
        cfg: the composed configuration, which has its schemas.
    """
    leaves = _roles(resolved, cfg)
    shared = {key: value for key, value, role in leaves if not role.varies_in_cohort}
    return json.dumps(shared, sort_keys=True)


def config_hash(resolved: Mapping[str, Any]) -> str:
    """A short digest of :func:`identity`."""
    canonical = json.dumps(identity(resolved), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _roles(
    stored: Mapping[str, Any], node: DictConfig | None = None
) -> Iterator[tuple[str, Any, KeyRole]]:
    """Yield dotted key, value and role of every leaf of a stored configuration.

    Args:
        node: the composed configuration, which has its schemas.
    """
    return _below(in_present_keys(stored), RunConfig, LEARNING, "", node)


def _below(
    stored: Mapping[str, Any], schema: Any, above: KeyRole, prefix: str, node: DictConfig | None
) -> Iterator[tuple[str, Any, KeyRole]]:
    typed = None if node is None else OmegaConf.get_type(node)
    schema = typed if is_dataclass(typed) else schema
    known, above = schema_of(schema), getattr(schema, "role", above)
    for name, value in stored.items():
        metadata = known[name].metadata if name in known else {}
        role = metadata.get("role") or above
        if isinstance(value, dict):
            below = None if node is None else node[name]
            yield from _below(value, metadata.get("schema"), role, f"{prefix}{name}.", below)
        else:
            yield f"{prefix}{name}", value, role
