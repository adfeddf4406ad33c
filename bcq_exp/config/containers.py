"""Fast conversion of configurations to dicts and lists, for sweeps of a thousand runs."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, Node, OmegaConf

from bcq_exp.internals import content


def plain(value: Any) -> Any:
    """``OmegaConf.to_container(value, resolve=True)``, several times faster if nothing to resolve.

    Values that are no configuration are returned as they are.

    Raises:
        OmegaConfBaseException: if an interpolation has no target.
    """
    if not OmegaConf.is_config(value):
        return value
    try:
        return _content(value)
    except _HasInterpolation:
        return OmegaConf.to_container(value, resolve=True)


def unresolved(node: Any) -> Any:
    """Convert a node to dicts and lists, with interpolations as text."""
    return OmegaConf.to_container(node)


def interpolations(cfg: DictConfig) -> dict[str, list[str]]:
    """Return the interpolations of each top-level node that has any, except ``hydra``."""
    parts = {str(name): _interpolations(node) for name, node in content(cfg).items()}
    return {name: found for name, found in parts.items() if found and name != "hydra"}


def _interpolations(node: Any) -> list[str]:
    value = content(node) if isinstance(node, Node) else node
    if isinstance(value, dict | list):
        below = value.values() if isinstance(value, dict) else value
        return [found for each in below for found in _interpolations(each)]
    if isinstance(value, Node):  # of a union
        return _interpolations(value)
    return [value] if isinstance(value, str) and "${" in value else []


class _HasInterpolation(Exception):
    pass


def _content(node: Any) -> Any:
    value = content(node)
    if isinstance(value, dict):
        return {name: _content(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_content(below) for below in value]
    if isinstance(value, Node):  # of a union
        return _content(value)
    if isinstance(value, str) and "${" in value:
        raise _HasInterpolation
    return value
