"""Configurations as Python's own containers, for those who look at a thousand of them."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, Node, OmegaConf


def plain(cfg: DictConfig) -> dict[str, Any]:
    """``OmegaConf.to_container(cfg, resolve=True)``, several times as fast where nothing refers.

    Raises:
        OmegaConfBaseException: if what a value refers to is not there.
    """
    try:
        return _content(cfg)
    except _Refers:
        return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def refers(cfg: DictConfig, but: str) -> bool:
    """Whether a value of a configuration, one of its nodes left out, may be an interpolation."""
    content: Any = cfg._value()
    try:
        for name, node in content.items():
            if name != but:
                _content(node)
    except _Refers:
        return True
    return False


class _Refers(Exception):
    pass


def _content(node: Any) -> Any:
    content = node._value()
    if isinstance(content, dict):
        return {name: _content(below) for name, below in content.items()}
    if isinstance(content, list):
        return [_content(below) for below in content]
    if isinstance(content, Node):  # of a union
        return _content(content)
    if isinstance(content, str) and "${" in content:
        raise _Refers
    return content
