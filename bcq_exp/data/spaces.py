"""Spaces: flat observation vectors of nested Boxes; continuous and discrete actions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.transitions import DataError

ActionSpace = Box | Discrete

ALLOWED_LEAVES = "float Boxes of any shape and 1-D Boxes of any dtype, alone or in Dict and Tuple"


@dataclass(frozen=True)
class Leaf:
    """One Box of an observation: its path in the nested space and its size.

    ``path`` holds Dict keys (str) and Tuple positions (int) from the root; empty for a plain Box.
    """

    path: tuple[str | int, ...]
    size: int

    @property
    def name(self) -> str:
        """``a.b.0``, or ``observation`` for a plain Box."""
        return ".".join(str(key) for key in self.path) or "observation"

    def pick(self, tree: Any) -> Any:
        """Return this leaf's part of a nested observation (dicts and tuples)."""
        for key in self.path:
            tree = tree[key]
        return tree


def observation_leaves(source: str, space: gym.Space) -> tuple[Leaf, ...]:
    """The leaves of an observation space, in the order of :func:`gymnasium.spaces.flatten`.

    Raises:
        DataError: a leaf that is no vector of numbers (Discrete, Text, an image, ...) or has bounds
            that are NaN; no leaf at all.
    """
    leaves = []
    for path, leaf in _walk(space):
        if not _is_vector(leaf):
            name = Leaf(path, 0).name
            raise DataError(
                f"data set {source!r}: observation {name!r} is {_short(leaf)}; allowed are "
                f"{ALLOWED_LEAVES}"
            )
        if np.isnan(leaf.low).any() or np.isnan(leaf.high).any():
            raise DataError(
                f"data set {source!r}: the observation space {_short(leaf)} has bounds that are "
                "NaN; a bound must be a number or infinite"
            )
        leaves.append(Leaf(path, gym.spaces.flatdim(leaf)))
    if not leaves:
        raise DataError(
            f"data set {source!r}: the observation space {_short(space)} is empty; "
            f"allowed are {ALLOWED_LEAVES}"
        )
    return tuple(leaves)


def flat_box(space: gym.Space) -> Box:
    """The 1-D Box of the flattened observations; ``space`` must have passed the leaf check."""
    flat = gym.spaces.flatten_space(space)
    assert isinstance(flat, Box)
    return flat


def check_action_space(source: str, space: gym.Space | None) -> ActionSpace:
    """Return ``space`` if a policy can act in it.

    Raises:
        DataError: anything but a Discrete of two actions or more, or a 1-D float Box with finite
            bounds and ``low < high``.
    """
    if not isinstance(space, Discrete):
        return check_continuous(source, space, "a 1-D Box of floats or Discrete")
    if space.n < 2:
        raise DataError(
            f"data set {source!r}: the action space is {_short(space)}; at least 2 actions are "
            "needed"
        )
    return space


def check_continuous(
    source: str, space: gym.Space | None, allowed: str = "a 1-D Box of floats"
) -> Box:
    """Return ``space`` if it is continuous and bounded; ``allowed`` is for the message.

    Raises:
        DataError: anything but a 1-D float Box with finite bounds and ``low < high``.
    """
    if (
        not isinstance(space, Box)
        or len(space.shape) != 1
        or not (_is_float(space) and space.shape[0])
    ):
        raise DataError(
            f"data set {source!r}: the action space is {_short(space)}; it must be {allowed}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.subtract(space.high, space.low, dtype=np.float32)
    if not (np.all(np.isfinite(width)) and np.all(space.low < space.high)):
        raise DataError(
            f"data set {source!r}: the action space is {_short(space)}; every action needs "
            "finite bounds with low < high, less than 3.4e38 apart"
        )
    return space


def act_size(space: ActionSpace) -> int:
    """The size of a recorded action: the vector's, or 1 for the index of a discrete action."""
    return 1 if isinstance(space, Discrete) else int(space.shape[0])


def space_facts(space: ActionSpace) -> dict[str, Any]:
    """Describe a space in plain values for :func:`space_of`, exactly."""
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start)}
    return {"low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}


def space_of(facts: Mapping[str, Any]) -> ActionSpace:
    """Return the space that :func:`space_facts` describes."""
    if "n" in facts:
        return Discrete(**facts)
    dtype = np.dtype(facts.get("dtype", "float32"))  # an earlier version stored none
    low, high = (np.array(facts[name], dtype) for name in ("low", "high"))
    return Box(low, high, dtype=dtype.type)


def bounded(name: str, bounds: Sequence[Any], size: int) -> Box:
    """Return the space of ``size`` actions with these bounds; ``name`` is for the message.

    Raises:
        DataError: neither a pair of finite numbers, the lower first, nor one pair for each action.
    """
    try:
        low, high = np.broadcast_to(np.array(bounds, np.float32), (size, 2)).T
        if np.isfinite([low, high]).all() and (low < high).all():
            return Box(low.copy(), high.copy())
    except (TypeError, ValueError):
        pass
    raise DataError(
        f"dataset.action_bounds={bounds}: must be [low, high], different in float32, or one "
        f"such pair for each of the {size} action dimensions of {name}"
    )


def _walk(
    space: gym.Space, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Leaves of a nested space, depth first, in the space's own order."""
    if isinstance(space, gym.spaces.Dict):
        for key, child in space.spaces.items():
            yield from _walk(child, (*path, key))
    elif isinstance(space, gym.spaces.Tuple):
        for position, child in enumerate(space.spaces):
            yield from _walk(child, (*path, position))
    else:
        yield path, space


def _is_vector(space: gym.Space) -> bool:
    # Integer Boxes of rank 2 and 3 are images, which the networks do not support.
    return isinstance(space, Box) and (_is_float(space) or len(space.shape) == 1)


def _is_float(space: Box) -> bool:
    return np.issubdtype(space.dtype, np.floating)


def _short(space: gym.Space | None) -> str:
    """Format the space in one line, a Box without its long bounds."""
    if isinstance(space, Box):
        bounds = f"{space.low.min():g}..{space.high.max():g}" if space.low.size else "no bounds"
        return f"Box({bounds}, {space.shape}, {space.dtype})"
    return " ".join(str(space).split())[:80]
