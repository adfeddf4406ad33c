"""Policies: from observations to actions in the networks' unit, then in the environment's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor, nn

from bcq_exp.algorithm.actions import ActionIndex, ActionMap, BoundMethod
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.mlp import in_eval_mode
from bcq_exp.algorithm.networks import SquashedMean


class Predictor(ABC):
    """Acts in an environment, on one observation or a batch."""

    @property
    @abstractmethod
    def observation_space(self) -> Space | None:
        """The space of one observation, where it is known."""

    @abstractmethod
    def act(self, obs: Any, generator: torch.Generator | None = None) -> np.ndarray:
        """Return what the environment's ``step`` takes (B, A), for observations ``(B, *obs)``.

        A policy that samples draws from ``generator``, on the CPU, or torch's global one.

        Raises:
            ValueError: if the observations have another shape, where theirs is known.
        """

    def check_obs(self, obs: np.ndarray | Tensor) -> None:
        """Compare the shape of observations ``(B, *obs)`` with that of the space, if it is a Box.

        Raises:
            ValueError: if they differ.
        """
        space = self.observation_space
        if isinstance(space, Box) and (obs.ndim == 0 or obs.shape[1:] != space.shape):
            sizes = ", ".join(map(str, space.shape))
            raise ValueError(
                f"observations must have the shape (B, {sizes}), not {tuple(obs.shape)}"
            )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return what the environment's ``step`` takes, and ``state``, as in Stable-Baselines3.

        The result is a pair, unlike d3rlpy's: ``act, _ = policy.predict(obs)`` would silently
        unpack an array of two actions, while an environment refuses a pair.

        Args:
            observation: one, or B in a batch, which return (A,) or (B, A). Without an
                ``observation_space`` an observation is a vector.
            state: returned unchanged; these policies have no state.
            episode_start: ignored, for the same reason.
            deterministic: draw from a generator of a fixed seed, so that equal calls return equal
                actions; by default a policy that draws uses torch's global generator.

        Raises:
            ValueError: if the observations are not finite, or have another shape, where theirs is
                known.
        """
        obs = observation if isinstance(observation, Tensor) else np.asarray(observation)
        space = self.observation_space
        shape = getattr(space, "shape", None)
        is_one = obs.ndim == (1 if shape is None else len(shape))
        if isinstance(space, Box):
            is_one = obs.shape == shape
        generator = torch.Generator().manual_seed(0) if deterministic else None
        act = self.act(obs[None] if is_one else obs, generator)
        # the largest of scores that are NaN would pass for an action
        finite = obs.isfinite() if isinstance(obs, Tensor) else np.isfinite(obs.astype(np.float64))
        if not finite.all():
            raise ValueError("observations must be finite")
        return act[0] if is_one else act, state


class Policy(nn.Module, Predictor):
    """Maps observations to actions in its own unit, and that unit to the environment's.

    Args:
        action_space: a Box; Discrete of a :class:`~bcq_exp.algorithm.discrete.DiscretePolicy`.
        observation_space: the space of observations, if known.
        action_scaling: networks work in [-1, 1], scaled to the space's bounds when acting.
        action_bound_method: how actions are kept in range (:class:`ActionMap` has the table).

    Raises:
        TypeError: if the action space is of another kind.
        ValueError: for an unknown bound method, or scaling without bounds.
    """

    observation_space: Space | None = None

    def __init__(
        self,
        *,
        action_space: Space,
        observation_space: Space | None = None,
        action_scaling: bool = False,
        action_bound_method: BoundMethod = "clip",
    ) -> None:
        super().__init__()
        self.action_space = action_space
        self.observation_space = observation_space
        self.action_scaling = action_scaling
        self.action_bound_method = action_bound_method
        self._action_map = self._make_action_map()

    def _make_action_map(self) -> ActionMap | ActionIndex:
        return ActionMap(
            self.action_space,
            action_scaling=self.action_scaling,
            bound_method=self.action_bound_method,
        )

    @property
    def normal_shape(self) -> tuple[int, ...] | None:
        """Shape of the standard normals that one action needs; None if it needs none."""
        return None

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        """Compute actions by tensor operations alone, the same at every call.

        It is exported. Where an agent explores, it is compiled if its class declares
        ``pure = True``. A policy that needs more overrides :meth:`forward`.

        Args:
            obs: (B, O), in the dtype and on the device of the networks.
            normal: standard normals ``(B, *normal_shape)``, if the policy takes any.

        Returns:
            Actions (B, A) in the policy's unit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no action(obs, normal)")

    @property
    def has_own_forward(self) -> bool:
        """Whether a subclass overrides :meth:`forward`."""
        return type(self).forward is not Policy.forward

    @property
    def can_be_compiled(self) -> bool:
        """Whether :meth:`action` can be compiled and stand for :meth:`forward`.

        The class that defines it must declare ``pure = True``; no subclass overrides
        :meth:`forward`, and there are no hooks.
        """
        owner = next(kind for kind in type(self).__mro__ if "action" in vars(kind))
        hooks = self._forward_hooks or self._forward_pre_hooks
        return vars(owner).get("pure") is True and not self.has_own_forward and not hooks

    @torch.no_grad()
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Return actions ``.act`` (B, A) in the policy's unit, for ``batch.obs`` ``(B, *obs)``.

        Networks act in evaluation mode, whatever mode they are in.

        A policy that samples draws from ``generator=`` (a ``torch.Generator`` on the CPU), or from
        torch's global one. ``state`` is returned unchanged; the policy has no state.

        Raises:
            ValueError: if the observations have another shape than those of ``observation_space``.
        """
        inputs = self.inputs(batch.obs, kwargs.get("generator"))
        with in_eval_mode(self):
            return Batch(act=self.action(*inputs).cpu().numpy(), state=state)

    def inputs(self, obs: Any, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Return what :meth:`action` takes for observations ``(B, *obs)``; draws normals, if any.

        Raises:
            ValueError: as :meth:`forward`.
        """
        obs, shape = self.as_tensor(obs), self.normal_shape
        self.check_obs(obs)
        if shape is None:
            return (obs,)
        normal = torch.randn((obs.shape[0], *shape), generator=generator, dtype=obs.dtype)
        return obs, normal.to(obs.device)

    def act(self, obs: Any, generator: torch.Generator | None = None) -> np.ndarray:
        return self.map_action(self(Batch(obs=obs), generator=generator).act)

    def map_action(self, act: np.ndarray) -> np.ndarray:
        """Actions (..., A) of this policy -> what the environment's ``step`` takes."""
        return self._action_map.to_env(np.asarray(act))

    def map_action_inverse(self, act: np.ndarray) -> np.ndarray:
        """Actions (..., A) of an environment or data set -> this policy's unit."""
        return self._action_map.from_env(np.asarray(act))

    def as_tensor(self, x: Any) -> Tensor:
        """``x`` in the dtype and on the device of the networks."""
        return as_tensor(x, self)


def as_tensor(x: Any, module: nn.Module) -> Tensor:
    """An array or tensor in the dtype and on the device of a module."""
    param = next(module.parameters())
    if not isinstance(x, Tensor):
        x = np.require(x, requirements=("C", "W"))  # torch: no negative strides, not read-only
    return torch.as_tensor(x, dtype=param.dtype, device=param.device)


class DeterministicPolicy(Policy):
    """Takes the one action of its actor.

    Args:
        actor: ``(obs,) -> act``, (B, O) -> (B, A).
        options: as of :class:`Policy`.
    """

    pure = True

    def __init__(self, *, actor: nn.Module, **options: Any) -> None:
        super().__init__(**options)
        self.actor = actor

    def action(self, obs: Tensor, normal: Tensor | None = None) -> Tensor:
        return self.actor(obs)


class GaussianPolicy(DeterministicPolicy):
    """Takes the squashed mean of a Gaussian actor, without sampling.

    Args:
        actor: the Gaussian actor and the bounds of its actions.
        options: as of :class:`Policy`.
    """

    actor: SquashedMean
