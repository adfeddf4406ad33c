"""What every offline algorithm shares: policies, training statistics, lagged networks."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from bcq_exp.algorithm.actions import ActionMap, BoundMethod
from bcq_exp.algorithm.optim import Optimizer


class Batch:
    """Named arrays or tensors with one leading size, as attributes: ``Batch(obs=..., act=...)``."""

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)

    def keys(self) -> Iterator[str]:
        """The names."""
        return iter(self.__dict__)

    def __getattr__(self, name: str) -> Any:  # only reached when the name is missing
        raise AttributeError(f"this batch has no {name!r}, only {sorted(self.__dict__)}")

    def __repr__(self) -> str:
        return f"Batch({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


@dataclass(kw_only=True)
class TrainingStats:
    """What one update tells.

    Args:
        train_time: seconds the update took.
        smoothed_loss: mean of each loss over the last (at most 100) updates, by name.
    """

    train_time: float = 0.0
    smoothed_loss: dict = field(default_factory=dict)

    def losses(self) -> dict[str, float]:
        """The statistics that are single numbers of this update."""
        shared = {f.name for f in fields(TrainingStats)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}


class Policy(nn.Module, ABC):
    """Maps observations to actions in its own unit, and that unit to the environment's.

    Raises:
        TypeError: if the action space is no Box.
    """

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
        self._action_map = ActionMap(
            action_space, action_scaling=action_scaling, bound_method=action_bound_method
        )

    @abstractmethod
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Actions ``.act`` (B, A), in the policy's unit, for ``batch.obs`` (B, *obs)."""

    def map_action(self, act: np.ndarray) -> np.ndarray:
        """Actions (..., A) of this policy -> what the environment's ``step`` takes."""
        return self._action_map.to_env(np.asarray(act))

    def map_action_inverse(self, act: np.ndarray) -> np.ndarray:
        """Actions (..., A) of an environment or data set -> this policy's unit."""
        return self._action_map.from_env(np.asarray(act))


TPolicy = TypeVar("TPolicy", bound=Policy)
TStats = TypeVar("TStats", bound=TrainingStats)


class OfflineAlgorithm(nn.Module, ABC, Generic[TPolicy]):
    """Trains a policy from recorded transitions.

    ``state_dict()`` is complete: policy, lagged networks and, as extra state, every optimizer.
    """

    def __init__(self, *, policy: TPolicy) -> None:
        super().__init__()
        self.policy = policy
        self._optimizers: dict[str, Optimizer] = {}
        self._recent_losses: deque[dict[str, float]] = deque(maxlen=100)

    def update(self, buffer: Any, sample_size: int) -> Any:
        """Sample ``sample_size`` transitions with ``buffer.sample`` and take one gradient step."""
        batch = buffer.sample(sample_size)
        return self.update_with_batch(batch[0] if isinstance(batch, tuple) else batch)

    def update_with_batch(self, batch: Any) -> Any:
        """One gradient step on a batch with ``obs, act, rew, terminated, obs_next``, each (B, ...).

        Entries may be arrays or tensors; actions are in the policy's unit (``map_action_inverse``).
        """
        start = time.perf_counter()
        stats = self._update_with_batch(batch)
        losses = stats.losses()
        self._recent_losses.append(losses)
        stats.smoothed_loss = {
            name: float(np.mean([recent[name] for recent in self._recent_losses]))
            for name in losses
        }
        stats.train_time = time.perf_counter() - start
        return stats

    @abstractmethod
    def _update_with_batch(self, batch: Any) -> TrainingStats: ...

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers' state, for ``state_dict``."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the optimizers' state back, from ``load_state_dict``."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name])


class LaggedNetworkPolyakUpdateAlgorithmMixin:
    """Target networks that follow their sources: target = tau * source + (1 - tau) * target."""

    tau: float

    def _add_lagged_network(self, source: nn.Module) -> nn.Module:
        """A copy of ``source``, without gradients, that follows it from now on."""
        target = copy.deepcopy(source).requires_grad_(False)
        pairs = self.__dict__.setdefault("_lagged_pairs", [])
        pairs.append((target, source))
        return target

    def _update_lagged_network_weights(self) -> None:
        pairs = self.__dict__["_lagged_pairs"]
        targets = [p for target, _ in pairs for p in target.parameters()]
        sources = [p for _, source in pairs for p in source.parameters()]
        polyak_update(targets, sources, self.tau)


@torch.no_grad()
def polyak_update(targets: list[Tensor], sources: list[Tensor], tau: float | Tensor) -> None:
    """target = tau * source + (1 - tau) * target, in place.

    With K stacked networks ``tau`` may be (K,), one for each.
    """
    if not isinstance(tau, Tensor):
        torch._foreach_lerp_(targets, sources, tau)
        return
    weights = [tau.reshape(-1, *[1] * (target.dim() - 1)).expand_as(target) for target in targets]
    torch._foreach_lerp_(targets, sources, weights)
