"""The contract of an offline algorithm."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor, nn

from bcq_exp.algorithm import hyperparameters as numbers
from bcq_exp.algorithm.alerts import Watch
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.losses import HasParameters
from bcq_exp.algorithm.networks import broadcasting, is_pure
from bcq_exp.algorithm.optim import Optimizer
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import Policy, as_tensor
from bcq_exp.errors import UserError

TRANSITION = ("obs", "act", "rew", "terminated", "obs_next")  # what a step is given of a batch


@dataclass(kw_only=True)
class TrainingStats:
    """The metrics of one update; each algorithm's subclass adds a field for each loss.

    Args:
        train_time: seconds the update took.
        smoothed_loss: mean of each loss over the last (at most 100) updates, by name.
    """

    train_time: float = 0.0
    smoothed_loss: dict = field(default_factory=dict)

    @classmethod
    def loss_names(cls) -> tuple[str, ...]:
        """Return the names of the losses, in order."""
        shared = {f.name for f in fields(TrainingStats)}
        return tuple(f.name for f in fields(cls) if f.name not in shared)

    def losses(self) -> dict[str, float]:
        """Return the metrics of this update that are single numbers, by name."""
        return {name: getattr(self, name) for name in self.loss_names()}


class NoNoise(NamedTuple):
    """The noise of an algorithm that draws no noise."""


class Minimizer(Protocol):
    """The part of an optimizer that a step uses."""

    def apply(self, loss: Tensor) -> None:
        """Move the parameters against the gradient of a loss, () or (K,)."""


Optimizers = Mapping[str, Minimizer]  # by the name of the network each moves


class Step(Protocol):
    """A gradient step of one run or K stacked runs, as a function of everything that it uses.

    Its losses are :func:`~bcq_exp.algorithm.stacking.per_run`; with K runs every tensor has a
    leading K.
    """

    def __call__(
        self,
        networks: Any,
        optimizers: Optimizers,
        hyperparameters: Any,
        batch: Batch,
        noise: Any,
        /,
    ) -> dict[str, Tensor]:
        """Take the step without synchronizing a GPU; return metrics by name, () or (K,).

        Args:
            networks: the algorithm's named tuple of networks.
            optimizers: the optimizers, by the name of the network that each moves.
            hyperparameters: the algorithm's numbers; (K,) tensors where stacked runs differ.
            batch: float tensors ``obs (B, O), act (B, A), rew (B,), terminated (B,), obs_next
                (B, O)``.
            noise: the algorithm's named tuple of standard normals.
        """


def take(
    step: Step, networks: Any, optimizers: Optimizers, hyper: Any, batch: Batch, noise: Any
) -> dict[str, Tensor]:
    """Take a step; return its metrics without gradients. Arguments as of :class:`Step`.

    Raises:
        UserError: if a metric is not a tensor.
    """
    metrics = step(networks, optimizers, hyper, batch, noise)
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            raise UserError(f"metric {name}: must be a tensor, not a {type(value).__name__}")
    return {name: value.detach() for name, value in metrics.items()}


TPolicy = TypeVar("TPolicy", bound=Policy)


class OfflineAlgorithm(nn.Module, ABC, Generic[TPolicy]):
    """Trains a policy from recorded transitions.

    An algorithm *declares*

    ===================  =========================================================================
    ``action_spaces``    the kinds of action space that it learns in: Box, Discrete
    ``training_stats``   the :class:`TrainingStats` whose fields are its losses
    ``diagnostics``      names of the other metrics of its steps
    ``watches``          which metrics mean trouble (:class:`~bcq_exp.algorithm.alerts.Watch`)
    ``Hyperparameters``  the frozen dataclass of the numbers in its equations
    ``reads``            the configuration's groups that it is built from
    ``network_kinds``    by group, the class of :mod:`bcq_exp.algorithm.networks` it works with; of
                         that module's classes it takes subclasses of this one only
    ``steps``            its step functions (:class:`Step`), taken in turn: usually one; two if
                         the actor learns every second step
    ``networks``         a named tuple of all networks of its steps, with target networks; a number
                         or bound that belongs to a network is a buffer of it
    ``optimizers``       the optimizers, by the name in ``networks`` of the network each moves
    ``noise_shapes``     a named tuple of the shapes of one step's standard normals
    ===================  =========================================================================

    and implements :meth:`build`, which makes it from a configuration. Engines, files and dashboards
    use nothing else.

    ``state_dict()`` is complete: policy, lagged networks and, as extra state, every optimizer.

    Args:
        policy: the policy that learns.
        hyperparameters: fields of ``Hyperparameters``, which has the defaults and ranges.

    Raises:
        TypeError: for an unknown hyperparameter.
        ValueError: if a hyperparameter is out of its range.
    """

    transition: ClassVar[tuple[str, ...]] = TRANSITION
    action_spaces: ClassVar[tuple[type[Space], ...]] = (Box,)
    training_stats: ClassVar[type[TrainingStats]]
    diagnostics: ClassVar[tuple[str, ...]] = ()
    Hyperparameters: ClassVar[type[numbers.Hyperparameters]] = numbers.Hyperparameters
    reads: ClassVar[tuple[str, ...]] = ()
    network_kinds: ClassVar[Mapping[str, type[nn.Module]]] = {}
    steps: ClassVar[tuple[Step, ...]]

    def __init__(self, *, policy: TPolicy, **hyperparameters: Any) -> None:
        super().__init__()
        self.policy = policy
        self.hyperparameters: Any = self.Hyperparameters(**hyperparameters)
        self.optimizers: dict[str, Optimizer] = {}
        self._recent_losses: deque[dict[str, float]] = deque(maxlen=100)

    @classmethod
    def build(cls, parts: Parts) -> Self:
        """Build the algorithm from the groups that it ``reads`` and its hyperparameters."""
        raise NotImplementedError(f"{cls.__name__} is not built from a configuration")

    @property
    @abstractmethod
    def networks(self) -> Any:
        """See above."""

    def noise_shapes(self, batch_size: int) -> Any:
        """See above. Each name is a random stream: another name draws other numbers."""
        return NoNoise()

    @property
    def watches(self) -> tuple[Watch, ...]:
        """See above."""
        return ()

    def value(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """Estimate Q(s, a), (B,), of tensors (B, O) and (B, A) in the policy's unit.

        The return is discounted by the hyperparameter ``gamma``. None if the algorithm learns no
        values.
        """
        return None

    @classmethod
    def losses(cls) -> tuple[str, ...]:
        """Return the names of the losses."""
        return cls.training_stats.loss_names()

    @classmethod
    def statistics(cls) -> tuple[str, ...]:
        """Return the names of all metrics of a step, in the order of ``train.csv``."""
        return (*cls.losses(), *cls.diagnostics)

    def update(self, buffer: Any, sample_size: int) -> Any:
        """Sample ``sample_size`` transitions with ``buffer.sample`` and take one gradient step."""
        batch = buffer.sample(sample_size)
        return self.update_with_batch(batch[0] if isinstance(batch, tuple) else batch)

    def update_with_batch(self, batch: Any) -> Any:
        """Take one gradient step on a batch with the entries of ``transition``, each (B, ...).

        Entries may be arrays or tensors; actions are in the policy's unit (``map_action_inverse``).
        Returns the algorithm's ``training_stats``, whose fields have a default where not every step
        reports them.

        Raises:
            ValueError: naming an entry of another shape.
        """
        start = time.perf_counter()
        tensors = {name: as_tensor(getattr(batch, name), self) for name in self.transition}
        size = len(tensors["obs"])
        for name, x in tensors.items():
            if x.shape[:1] != (size,) or (name == "act" and x.dim() != 2):
                raise ValueError(
                    f"{name} must have the shape ({size}, {'A' if name == 'act' else '...'}), not "
                    f"{tuple(x.shape)}"
                )
        tensors |= {name: tensors[name].reshape(size) for name in ("rew", "terminated")}
        device = tensors["obs"].device
        noise = self.draw_noise(size)
        values = self.gradient_step(
            Batch(**tensors), type(noise)._make(x.to(device) for x in noise)
        )
        losses = {name: values[name].item() for name in self.losses() if name in values}
        self._recent_losses.append(losses)
        recent = {n: [x[n] for x in self._recent_losses if n in x] for n in self.losses()}
        smoothed = {name: float(np.mean(values)) for name, values in recent.items() if values}
        return self.training_stats(
            **losses, smoothed_loss=smoothed, train_time=time.perf_counter() - start
        )

    def gradient_step(self, batch: Batch, noise: Any) -> dict[str, Tensor]:
        """Take the next of ``steps`` on tensors as of :class:`Step`; return its metrics."""
        statistics = self.tensor_step(batch, noise, self.num_steps % len(self.steps))
        self.after_steps(1)
        return statistics

    def draw_noise(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        """Draw the noise of one step on the CPU, from ``generator`` or torch's global one."""
        dtype = next(self.parameters()).dtype
        shapes = self.noise_shapes(batch_size)
        return type(shapes)._make(
            torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes
        )

    # The interface to engines, which engine.stacked.StackedRuns has too

    def tensor_step(self, batch: Batch, noise: Any, turn: int = 0) -> dict[str, Tensor]:
        """Do the tensor work of a step, which a CUDA graph or an XLA program can hold.

        Args:
            turn: the index into ``steps``.
        """
        networks = self.networks
        return take(
            self.steps[turn],
            type(networks)._make(map(broadcasting, networks)),
            self.optimizers,
            self.hyperparameters,
            batch,
            noise,
        )

    def after_steps(self, count: int) -> None:
        """Do the host's work of ``count`` steps: learning-rate schedules."""
        for optimizer in self.optimizers.values():
            optimizer.after_steps(count)

    @property
    def num_steps(self) -> int:
        """Gradient steps taken."""
        return next(iter(self.optimizers.values())).num_steps

    @property
    def has_schedule(self) -> bool:
        """Whether the host must change a learning rate after each step."""
        return any(o.has_schedule for o in self.optimizers.values())

    @property
    def is_pure(self) -> bool:
        """Whether every network declares that it may be compiled and stacked."""
        return all(is_pure(network) for network in self.networks)

    @property
    def can_be_stacked(self) -> bool:
        """Whether its gradient steps can be taken together with those of other runs."""
        return self.is_pure and all(o.can_be_stacked for o in self.optimizers.values())

    @property
    def can_be_compiled(self) -> bool:
        """Whether a gradient step runs the same kernels on the same tensors every time."""
        return self.is_pure and all(o.can_be_compiled for o in self.optimizers.values())

    def state_tensors(self) -> list[Tensor]:
        """Return the tensors that a gradient step may change: of networks and of optimizers."""
        of_optimizers = (x for o in self.all_optimizers() for x in o.state_tensors())
        return [*self.parameters(), *self.buffers(), *of_optimizers]

    def all_optimizers(self) -> list[Optimizer]:
        """Return the optimizers that step."""
        return list(self.optimizers.values())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizers' state, for ``state_dict``."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the optimizers' state, for ``load_state_dict``."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


class LaggedNetworkPolyakUpdateAlgorithmMixin:
    """Target networks that follow their sources: target = tau * source + (1 - tau) * target."""

    def _add_lagged_network(self, source: nn.Module) -> nn.Module:
        """Copy ``source``, without gradients, as a target for :func:`polyak_update`."""
        return copy.deepcopy(source).requires_grad_(False)


@torch.no_grad()
def polyak_update(
    targets: Iterable[HasParameters], sources: Iterable[HasParameters], tau: float | Tensor
) -> None:
    """target = tau * source + (1 - tau) * target, in place, for every parameter.

    With K stacked networks ``tau`` may be (K,), one for each.
    """
    moved = [p for network in targets for p in network.parameters()]
    followed = [p for network in sources for p in network.parameters()]
    if not isinstance(tau, Tensor):
        torch._foreach_lerp_(moved, followed, tau)
        return
    weights = [
        tau.reshape((*tau.shape, *[1] * (param.dim() - tau.dim()))).expand_as(param)
        for param in moved
    ]
    torch._foreach_lerp_(moved, followed, weights)
