"""Maps between the actions of networks and those of the environment."""

from __future__ import annotations

from typing import Literal

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from bcq_exp.ranges import BOUND_METHODS, require

BoundMethod = Literal["clip", "tanh"] | None
LARGEST, SMALLEST = 10.0, 0.1  # sizes of actions that networks can learn without scaling
_TANH_LIMIT = 1 - 1e-6  # atanh of the edge itself is infinite; this is 7.25


def is_far_from_one(space: Box) -> bool:
    """Whether an action's bounds are so large, or so close together, that it should be scaled."""
    size = np.maximum(np.abs(space.low), np.abs(space.high))
    half_range = (space.high - space.low) / 2
    return bool((size > LARGEST).any() or (half_range < SMALLEST).any())


class ActionMap:
    """Maps actions between the policy's unit and a Box, as Tianshou's ``action_scaling`` names it.

    ==============  ============  =======================================  ====================
    action_scaling  bound_method  policy's unit -> environment             the unit's range
    ==============  ============  =======================================  ====================
    False           None          as it is                                 [low, high]
    False           clip, tanh    clipped to [low, high]: no action in     [low, high]
                                  the space changes
    True            None          scaled from [-1, 1] to [low, high]       [-1, 1]
    True            clip          clipped to [-1, 1], then scaled          [-1, 1]
    True            tanh          tanh, then scaled                        +-atanh(1 - 1e-6)
    ==============  ============  =======================================  ====================

    Raises:
        TypeError: if the space is not a Box.
        ValueError: if the method is unknown, or a space without bounds is to be scaled.
    """

    def __init__(
        self, space: Space, *, action_scaling: bool = False, bound_method: BoundMethod = "clip"
    ) -> None:
        if not isinstance(space, Box):
            raise TypeError(f"policies need a continuous action space (Box), not {space}")
        require("action_bound_method", bound_method, BOUND_METHODS)
        if action_scaling and not space.is_bounded():
            raise ValueError(f"action_scaling needs bounds on every action, which {space} lacks")
        self._low, self._high = space.low, space.high
        self._scaling, self._method = action_scaling, bound_method

    @property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action in the policy's unit, each shaped as the space."""
        if not self._scaling:
            return self._low, self._high
        limit = np.arctanh(_TANH_LIMIT) if self._method == "tanh" else 1.0
        return np.full_like(self._low, -limit), np.full_like(self._high, limit)

    def to_env(self, act: np.ndarray) -> np.ndarray:
        """Actions (..., A) in the policy's unit -> in the environment's."""
        if not self._scaling:
            return act if self._method is None else np.clip(act, self._low, self._high)
        act = _as_float(act)
        if self._method is None:
            return self._scale(act)
        bounded = np.tanh(act) if self._method == "tanh" else np.clip(act, -1, 1)
        return np.clip(self._scale(bounded), self._low, self._high)  # rounding may step outside

    def from_env(self, act: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_env` on the space, for the actions of a data set."""
        if not self._scaling:
            return act
        act = _as_float(act)
        unit = 2 * (act - self._low) / (self._high - self._low) - 1
        if self._method == "tanh":
            unit = np.arctanh(np.clip(unit.astype(np.float64), -_TANH_LIMIT, _TANH_LIMIT))
        return unit.astype(act.dtype)

    def _scale(self, unit: np.ndarray) -> np.ndarray:
        return (self._low + (self._high - self._low) * (unit + 1) / 2).astype(unit.dtype)


def _as_float(act: np.ndarray) -> np.ndarray:
    return act if np.issubdtype(act.dtype, np.floating) else act.astype(np.float64)


class ActionIndex:
    """Maps the actions of a Discrete space between the environment's numbers and indices from 0.

    A policy's actions are the environment's numbers already, (B,); those of the data, which its
    networks work with, are indices (B, 1).

    Raises:
        TypeError: if the space is not Discrete.
    """

    def __init__(self, space: Space) -> None:
        if not isinstance(space, Discrete):
            raise TypeError(f"the policy needs a Discrete action space, not {space}")
        self.start = int(space.start)

    def to_env(self, act: np.ndarray) -> np.ndarray:
        """The actions (B,) of a policy, as they are."""
        return act

    def from_env(self, act: np.ndarray) -> np.ndarray:
        """Indices (B, 1) of the environment's numbers (B,)."""
        return (act - self.start)[..., None]
