"""Colours of algorithms and groups, the same on the report page and in every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

# Okabe and Ito's first six, which colour-blind readers can distinguish, and four more
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8265c9", "#a9714b",
    "#8f9a1e", "#c4314b",
)  # fmt: skip
ALGORITHMS = dict(
    zip(("BCQ", "DDPG", "BC", "VAEBC", "TD3BC", "DQN", "IQL", "CQL"), PALETTE, strict=False)
)
BEHAVIOUR = "#8a94a0"  # the behaviour policy, and groups that are not highlighted
NEUTRAL = "#7a8899"  # elements of no group
DIVERGING = ("#d55e00", "#dfe3e7", "#0072b2")  # from worse to better
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # Plotly's names


SHADES = (0.0, 0.45, -0.4)  # shares of white, or of black where they are negative


class Style(NamedTuple):
    """The style of a group: a colour and one of DASHES."""

    colour: str
    dash: str


def of_algorithms(names: Iterable[str]) -> dict[str, str]:
    """The colour of each algorithm, which does not depend on the others.

    Args:
        names: class names ("TD3BC"), full targets, or choices of ``algo=`` ("td3_bc"). A custom
            algorithm gets one of the other colours, by order.
    """
    others = cycle(PALETTE[len(ALGORITHMS) :])
    return {name: ALGORITHMS.get(_class_name(name)) or next(others) for name in names}


def styles(groups: Sequence[str], algorithms: Mapping[str, str]) -> dict[str, Style]:
    """Distinct styles for groups; those of one algorithm share its colour.

    These groups differ in their dashes, and beyond five in the colour's shade.

    Args:
        algorithms: each group's algorithm where groups differ in it, else empty.
    """
    if not algorithms:
        every = [Style(colour, dash) for dash in DASHES for colour in PALETTE]
        return dict(zip(groups, cycle(every), strict=False))
    own = of_algorithms(sorted({*algorithms.values()}))
    counts: Counter[str] = Counter()
    found = {}
    for group in groups:
        shade, dash = divmod(counts[algorithms[group]], len(DASHES))
        colour = mixed(own[algorithms[group]], SHADES[shade % len(SHADES)])
        found[group] = Style(colour, DASHES[dash])
        counts[algorithms[group]] += 1
    return found


def mixed(colour: str, share: float) -> str:
    """A colour with a share of white, or of black where it is negative."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    mix = [part + share * (255 - part) if share > 0 else part * (1 + share) for part in parts]
    return "#" + "".join(f"{round(part):02x}" for part in mix)


def _class_name(name: str) -> str:
    """ "td3_bc", "TD3BC" and "bcq_exp.algorithm.td3_bc.TD3BC" are one; "mine.BCQ" is not BCQ."""
    package, _, last = name.rpartition(".")
    if package and not package.startswith("bcq_exp."):
        return name
    return last.replace("_", "").upper()
