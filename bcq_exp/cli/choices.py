"""The groups of the configuration with their choices, for ``--help``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from omegaconf import OmegaConf

INDENT, WIDTH = 29, 80  # columns


def choices(*hidden: str) -> str:
    """List every group and its choices, including those of custom folders.

    A resolver for help texts, ``${bcq.choices:schema,hydra}``; it needs Hydra's configuration.

    Args:
        hidden: groups to leave out.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.object_type import ObjectType

    loader, hydra = GlobalHydra.instance().config_loader(), HydraConfig.get()
    if not OmegaConf.is_missing(hydra.runtime, "output_dir"):
        return ""  # a job composes other configurations, whose help texts nobody reads
    name, overrides = hydra.job.config_name, list(hydra.overrides.hydra)  # with a search path

    def found(group: str, kind: ObjectType) -> list[str]:
        return sorted(loader.get_group_options(group, kind, name, overrides))

    lines = []
    for group in found("", ObjectType.GROUP):
        options = [o for o in found(group, ObjectType.CONFIG) if not o.startswith("_")]
        if group not in hidden and options:
            lines.append(_line(_key(group, hydra.runtime.choices), ", ".join(options)))
    return "\n".join(lines)


def _key(group: str, chosen: Mapping[str, str | None]) -> str:
    """A group as an override names it, with its nodes if it has any (GROUP@NODE)."""
    nodes = sorted(key.partition("@")[2] for key in chosen if key.startswith(f"{group}@"))
    return f"{group}@{'|'.join(nodes)}" if nodes and group not in chosen else group


def _line(key: str, options: str) -> str:
    first = f"    {key}".ljust(INDENT - 2) + "  "
    return textwrap.fill(
        options,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * INDENT,
        break_on_hyphens=False,  # a choice is one word
    )
