"""Optimizers and their factories, which hold settings before the parameters exist."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import unwrap
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from bcq_exp.algorithm.mlp import trainable
from bcq_exp.algorithm.stacking import share
from bcq_exp.errors import UserError
from bcq_exp.ranges import COSINE, LINEAR, POSITIVE, require

Schedule = Callable[[int], float]  # gradient steps taken -> factor of the learning rate


@dataclass(frozen=True)
class LinearSchedule:
    """Decreases linearly from 1 to ``final`` over ``num_steps`` gradient steps."""

    num_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        return 1 + (self.final - 1) * min(step / self.num_steps, 1.0)


@dataclass(frozen=True)
class CosineSchedule:
    """Decreases from 1 to ``final`` along half a cosine (Loshchilov & Hutter 2017, no restarts)."""

    num_steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        progress = min(step / self.num_steps, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


def schedule_named(name: str, num_steps: int, final: float) -> Schedule | None:
    """The schedule of one of ``ranges.SCHEDULES``; ``None`` is constant."""
    kinds: dict[str, Callable[[int, float], Schedule]] = {
        LINEAR: LinearSchedule,
        COSINE: CosineSchedule,
    }
    return kinds[name](num_steps, final) if name in kinds else None


class Optimizer:
    """A torch optimizer with its gradient clipping and schedule, for the parameters of one network.

    A step is :meth:`apply`, then :meth:`after_steps`. Gradients are computed for these parameters
    only, although a loss may depend on other networks (the actor's depends on the critic).

    Args:
        factory: the factory that made it and holds its settings.
        params: the parameters of one network, or of K stacked networks (K, ...).
    """

    can_be_stacked: ClassVar[bool] = True  # whether its factory makes one over stacked parameters
    _leading_dims = 0  # of parameters; 1 if they are stacked

    def __init__(self, factory: OptimizerFactory, params: Sequence[nn.Parameter]) -> None:
        self.factory = factory
        self.params = list(params)
        self.num_steps = 0
        self._optimizer = factory.torch_optimizer(self.params)

    @classmethod
    def stacked(cls, optimizers: Sequence[Optimizer], params: Sequence[nn.Parameter]) -> Optimizer:
        """Stack K optimizers of equal settings and steps, over stacked ``params`` (K, ...).

        The moments of each become views of the stacked ones.
        """
        first = optimizers[0]
        stack = cls(first.factory, params)
        stack._leading_dims, stack.num_steps = 1, first.num_steps
        stack._follow_schedule()
        for i, param in enumerate(stack.params):
            each = [optimizer.moments(optimizer.params[i]) for optimizer in optimizers]
            for name, value in each[0].items():
                if name != "step" and isinstance(value, Tensor):
                    stack.moments(param)[name] = share([moments[name] for moments in each])
                    continue
                for moments in (stack.moments(param), *each):  # one counter of steps for all
                    moments[name] = value
        return stack

    def apply(self, loss: Tensor) -> None:
        """Do the tensor work of one step down the gradient of ``loss`` (0-d)."""
        self.apply_gradients(gradients(loss, self.params))

    def apply_gradients(self, grads: Sequence[Tensor]) -> None:
        """Do the same from gradients, one for each parameter."""
        if self.factory.max_grad_norm is not None:
            grads = _clipped(grads, self.factory.max_grad_norm, self._leading_dims)
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad.contiguous()  # fused kernels ignore strides
        self._optimizer.step()

    def after_steps(self, count: int) -> None:
        """Count the steps and set the next learning rate, on the host."""
        self.num_steps += count
        self._follow_schedule()

    @property
    def has_schedule(self) -> bool:
        """Whether the host changes the learning rate after each step."""
        return self.factory.schedule is not None

    @property
    def can_be_compiled(self) -> bool:
        """Whether a step reads and changes tensors only."""
        return self.factory.schedule is None or self.factory.reads_lr_tensor

    def state_tensors(self) -> list[Tensor]:
        """Return the tensors of a step besides the parameters: moments and learning rate."""
        state = [x for p in self.params for x in self.moments(p).values() if torch.is_tensor(x)]
        return [*state, *([self._lr] if isinstance(self._lr, Tensor) else [])]

    def moments(self, param: nn.Parameter) -> dict[str, Any]:
        """The optimizer's state of a parameter, by torch's names; empty before a step."""
        return self._optimizer.state[param]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._lr)

    def next_lrs(self, count: int) -> list[float]:
        """The learning rates (count,) of the next steps."""
        return [self.factory.lr_at(self.num_steps + i) for i in range(count)]

    @contextmanager
    def lr_from(self, lr: Tensor) -> Iterator[None]:
        """Let steps in here read their learning rate from a 0-d tensor, if they can."""
        (group,) = self._optimizer.param_groups
        before = group["lr"]
        if self.factory.reads_lr_tensor:
            group["lr"] = lr
        try:
            yield
        finally:
            group["lr"] = before

    def state_dict(self) -> dict[str, Any]:
        """Moments and steps taken, as plain containers and tensors."""
        return {"optimizer": self._optimizer.state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a copy of :meth:`state_dict`; settings and device stay the present ones."""
        saved = copy.deepcopy(state["optimizer"])  # torch would share the moments
        groups = [
            {**group, **{name: value for name, value in own.items() if name != "params"}}
            for group, own in zip(saved["param_groups"], self._optimizer.param_groups, strict=True)
        ]
        self._optimizer.load_state_dict({**saved, "param_groups": groups})
        self.num_steps = state["num_steps"]
        self._follow_schedule()

    @property
    def _lr(self) -> float | Tensor:
        return self._optimizer.param_groups[0]["lr"]

    def _follow_schedule(self) -> None:
        if self.factory.schedule is None:
            return
        lr = self.factory.lr_at(self.num_steps)
        if isinstance(self._lr, Tensor):
            self._lr.fill_(lr)
        else:
            self._optimizer.param_groups[0]["lr"] = lr


def gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss (0-d); zeros for parameters without effect.

    Raises:
        UserError: if the loss depends on none of them.
    """
    found = torch.autograd.grad(loss, params, allow_unused=True)
    if all(grad is None for grad in found):
        raise UserError("a loss does not depend on the network that its optimizer moves")
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def _clipped(grads: Sequence[Tensor], max_norm: float, leading_dims: int) -> list[Tensor]:
    """Gradients scaled down to a joint L2 norm of ``max_norm``, each run's by itself."""
    norms = [
        torch.linalg.vector_norm(g, dim=tuple(range(leading_dims, g.dim())), keepdim=True)
        if g.dim() > leading_dims
        else g.abs()  # of one number: torch would take the norm over the runs
        for g in grads
    ]
    shape = norms[0].shape[:leading_dims]
    norm = torch.stack([n.reshape(shape) for n in norms]).square().sum(0).sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return [g * scale.reshape(n.shape) for g, n in zip(grads, norms, strict=True)]


class _FusedAdam(torch.optim.Adam):
    """Torch's fused Adam with one step counter a network, not one a parameter.

    Incrementing a dozen counters takes longer than updating a small network. All parameters step
    together here, so the first one's counter is enough.
    """

    # torch's wrappers of these import torch.compile, which takes a second
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)

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

    Raises:
        ValueError: if ``max_grad_norm`` is not positive; a negative norm would ascend.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: Schedule | None = None

    # whether its kernels take the learning rate as a tensor
    reads_lr_tensor: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_grad_norm is not None:
            require("max_grad_norm", self.max_grad_norm, POSITIVE)

    def lr_at(self, step: int) -> float:
        """The learning rate after ``step`` steps."""
        return self.lr if self.schedule is None else self.lr * self.schedule(step)

    def without_lr(self) -> OptimizerFactory:
        """A copy without the learning rate, if steps can read that from a tensor."""
        return replace(self, lr=0.0, schedule=None) if self.reads_lr_tensor else self

    def create(self, params: Iterable[nn.Parameter]) -> Optimizer:
        """Make an optimizer over ``params``."""
        return Optimizer(self, list(params))

    @abstractmethod
    def torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Make torch's optimizer, whose update is elementwise."""


def optimizer_for(network: nn.Module, factory: OptimizerFactory | Any) -> Optimizer:
    """The optimizer of a network's trainable parameters.

    Args:
        factory: an :class:`OptimizerFactory`, or one of Tianshou's form: its
            ``create_instances(network)`` returns a torch optimizer and a scheduler of its learning
            rate, or ``None``, which is stepped once a gradient step.

    Raises:
        TypeError: if it is neither.
    """
    params = trainable(network)
    if isinstance(factory, OptimizerFactory):
        return factory.create(params)
    if not hasattr(factory, "create_instances"):
        raise TypeError(
            "an optimizer must be given as an OptimizerFactory, such as "
            f"AdamOptimizerFactory(lr=1e-3), not as {factory!r}"
        )
    return _MadeElsewhere(params, *factory.create_instances(network))


class _MadeElsewhere(Optimizer):
    """A torch optimizer made by a custom factory, with its learning-rate scheduler."""

    can_be_compiled = False  # its step may count on the host
    can_be_stacked = False  # it moves the parameters of its own run

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None,
    ) -> None:
        super().__init__(_Keeping(optimizer=optimizer), list(params))
        self._scheduler = scheduler

    @property
    def has_schedule(self) -> bool:
        return self._scheduler is not None

    def after_steps(self, count: int) -> None:
        super().after_steps(count)
        if self._scheduler is not None:
            for _ in range(count):
                self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        scheduler = None if self._scheduler is None else self._scheduler.state_dict()
        return {**super().state_dict(), "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
            rates = self._scheduler.get_last_lr()
            for group, lr in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = lr


@dataclass(frozen=True, kw_only=True)
class _Keeping(OptimizerFactory):
    """A factory that returns an existing optimizer."""

    optimizer: torch.optim.Optimizer

    def torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return self.optimizer


@dataclass(frozen=True)
class AdamOptimizerFactory(OptimizerFactory):
    """Adam (Kingma & Ba 2015), the paper's choice."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    _decoupled_weight_decay: ClassVar[bool] = False
    reads_lr_tensor: ClassVar[bool] = True

    def torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        adam = _FusedAdam(
            params,
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
            capturable=_are_on_device(params),
            decoupled_weight_decay=self._decoupled_weight_decay,
        )
        if self.schedule is not None and _are_on_device(params):  # a CUDA graph reads it there
            (group,) = adam.param_groups
            group["lr"] = torch.tensor(self.lr, dtype=torch.float32, device=params[0].device)
        return adam


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

    def torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            params,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=True,
            capturable=_are_on_device(params),  # else it counts its steps on the host
        )


@dataclass(frozen=True)
class SGDOptimizerFactory(OptimizerFactory):
    """Stochastic gradient descent, with momentum if wanted."""

    momentum: float = 0.0
    nesterov: bool = False

    def torch_optimizer(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            foreach=True,
        )


def _are_on_device(params: Sequence[Tensor]) -> bool:
    """Whether parameters lie on a device whose kernels run without the host."""
    return bool(params) and params[0].device.type != "cpu"
