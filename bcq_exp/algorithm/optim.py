"""Optimizers as factories: what to build is said before the parameters exist."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Schedule = Callable[[int], float]  # gradient steps taken -> factor of the learning rate


@dataclass(frozen=True)
class LinearSchedule:
    """From 1 down to ``final`` in a straight line over ``num_steps`` gradient steps."""

    num_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        return 1 + (self.final - 1) * min(step / self.num_steps, 1.0)


@dataclass(frozen=True)
class CosineSchedule:
    """From 1 down to ``final`` along half a cosine (Loshchilov & Hutter 2017, no restarts)."""

    num_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        progress = min(step / self.num_steps, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class Optimizer:
    """A torch optimizer with its gradient clipping and schedule, for the parameters of one network.

    :meth:`minimize` differentiates with respect to those parameters only, so a loss that reaches
    other networks (the actor's goes through the critic) costs and changes nothing there.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        (group,) = optimizer.param_groups
        self.params: list[nn.Parameter] = group["params"]
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._schedule = schedule
        self._base_lr = float(optimizer.param_groups[0]["lr"])
        self.num_steps = 0

    def minimize(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss`` (0-d)."""
        self.apply(loss)
        self.after_step()

    def apply(self, loss: Tensor) -> None:
        """The tensor work of a step, which a capture can hold; :meth:`after_step` is the rest."""
        for param, grad in zip(self.params, torch.autograd.grad(loss, self.params), strict=True):
            param.grad = grad
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.params, self._max_grad_norm)
        self._optimizer.step()

    def after_step(self) -> None:
        """The host's work of a step: count it and set the next one's learning rate."""
        self.num_steps += 1
        self._follow_schedule()

    @property
    def can_be_captured(self) -> bool:
        """Whether all that a step changes lies in tensors (see ``training.capture``)."""
        return self._schedule is None or isinstance(self._lr, Tensor)

    def state_tensors(self) -> list[Tensor]:
        """What a step changes besides the parameters, and what it reads: moments, learning rate."""
        state = [
            x for p in self.params for x in self._optimizer.state[p].values() if torch.is_tensor(x)
        ]
        return [*state, *([self._lr] if isinstance(self._lr, Tensor) else [])]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._lr)

    def state_dict(self) -> dict[str, Any]:
        """Moments and steps taken, as plain containers and tensors."""
        return {"optimizer": self._optimizer.state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the learning rate is the present schedule's."""
        lr = self._lr
        self._optimizer.load_state_dict(state["optimizer"])
        self._optimizer.param_groups[0]["lr"] = lr
        self.num_steps = state["num_steps"]
        self._follow_schedule()

    @property
    def _lr(self) -> float | Tensor:
        return self._optimizer.param_groups[0]["lr"]

    def _follow_schedule(self) -> None:
        if self._schedule is None:
            return
        lr = self._base_lr * self._schedule(self.num_steps)
        if isinstance(self._lr, Tensor):
            self._lr.fill_(lr)
        else:
            self._optimizer.param_groups[0]["lr"] = lr


class _FusedAdam(torch.optim.Adam):
    """Torch's fused Adam with one step counter a network, not one a parameter.

    Counting a dozen counters up takes longer than the update of a small network itself. All
    parameters step together here, so the first one's counter serves.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        lists: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
        self._init_group(group, *lists)
        *moments, counters = lists
        counters[0].add_(1)
        update: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        update(
            *moments,
            counters[:1] * len(counters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


@dataclass(frozen=True)
class OptimizerFactory(ABC):
    """Makes the optimizer of one network.

    Args:
        lr: learning rate.
        weight_decay: L2 penalty (decoupled in AdamW).
        max_grad_norm: gradients are scaled down to this L2 norm; ``None`` leaves them alone.
        schedule: factor of ``lr`` as a function of gradient steps; ``None`` keeps it constant.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: Schedule | None = None

    def create(self, params: Iterable[nn.Parameter]) -> Optimizer:
        """An optimizer over ``params``."""
        return Optimizer(
            self._torch_optimizer(list(params)),
            max_grad_norm=self.max_grad_norm,
            schedule=self.schedule,
        )

    @abstractmethod
    def _torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class AdamOptimizerFactory(OptimizerFactory):
    """Adam (Kingma & Ba 2015), the paper's choice."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    _decoupled_weight_decay: ClassVar[bool] = False

    def _torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        cuda = bool(params) and params[0].is_cuda
        # a learning rate that changes must lie in a tensor for a captured step to see it
        dtype = torch.float32 if cuda else torch.float64
        lr = torch.tensor(self.lr, dtype=dtype, device=params[0].device)
        return _FusedAdam(
            params,
            lr=self.lr if self.schedule is None else lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
            capturable=cuda,
            decoupled_weight_decay=self._decoupled_weight_decay,
        )


@dataclass(frozen=True)
class AdamWOptimizerFactory(AdamOptimizerFactory):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    _decoupled_weight_decay: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSpropOptimizerFactory(OptimizerFactory):
    """RMSprop (Tieleman & Hinton 2012)."""

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def _torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            params,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=True,
        )


@dataclass(frozen=True)
class SGDOptimizerFactory(OptimizerFactory):
    """Stochastic gradient descent, with momentum if wanted."""

    momentum: float = 0.0
    nesterov: bool = False

    def _torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            foreach=True,
        )
