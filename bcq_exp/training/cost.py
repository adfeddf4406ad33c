"""What a run costs, before it is trained: a step's work is counted, and a rate makes it seconds.

The work is that of one real step of the algorithm on this host, seen kernel by kernel, so whatever
an algorithm declares (sampled actions, networks, turns) is in it and no formula has to follow. The
sizes of recorded data are not looked up, as they would have to be loaded: they are HalfCheetah's.
So a plan's seconds are "about": within a half on the machine that the rates were measured on
(tests/bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.batch import Batch
from bcq_exp.data.datasets import step_limit
from bcq_exp.data.online import Exploration
from bcq_exp.data.spaces import ActionSpace, act_size
from bcq_exp.data.task import load_task
from bcq_exp.engine.online_engine import Collected
from bcq_exp.engine.placement import place
from bcq_exp.training.algorithms import algorithm_class, build_algorithm, with_scaling_decided
from bcq_exp.training.spec import AlgorithmSpec, RunSpec

OBS_DIM, ACT_DIM = 17, 6
EPISODE_STEPS = 1000  # of an evaluation, where the environment's limit is not known
ROW_BYTES = 200  # of a line in train.csv or eval.csv
RUN_BYTES = 20_000  # of a run's other files
TENSOR_BYTES = 350  # of a tensor's entry in a checkpoint, besides its numbers
CHECKPOINTS = 2  # the last and the one before


@dataclass(frozen=True)
class Work:
    """Of one gradient step, or of acting once.

    Args:
        kernels: launched.
        flops: of matrix products.
        numbers: that kernels write.
    """

    kernels: float = 0.0
    flops: float = 0.0
    numbers: float = 0.0

    def __truediv__(self, by: float) -> Work:
        return Work(self.kernels / by, self.flops / by, self.numbers / by)


@dataclass(frozen=True)
class Rate:
    """Seconds a kernel, a floating-point operation and a number written take, at one thread."""

    kernel: float
    flop: float
    number: float
    host: float  # of a kernel that Python calls

    def seconds(self, work: Work, num_runs: int = 1, *, by_host: bool = False) -> float:
        """Of work that so many stacked runs do together: the same kernels, larger."""
        kernel = self.host if by_host else self.kernel
        return work.kernels * kernel + num_runs * (
            work.flops * self.flop + work.numbers * self.number
        )


# by device and the products' type, fitted to steps of one run and of 27 (tests/bench/cost.py): the
# CPU's to compiled ones, a GPU's to CUDA graphs on an H200; its float64 is a guess
RATES = {
    ("cpu", torch.float32): Rate(2.8e-6, 1 / 130e9, 2.7e-10, 10e-6),
    ("cpu", torch.bfloat16): Rate(2.8e-6, 1 / 185e9, 2.7e-10, 10e-6),
    ("cpu", torch.float64): Rate(2.8e-6, 1 / 65e9, 5.4e-10, 10e-6),
    ("cuda", torch.float32): Rate(3.9e-6, 1 / 23e12, 2e-12, 50e-6),
    ("cuda", torch.bfloat16): Rate(2.7e-6, 1 / 42e12, 1e-13, 50e-6),
    ("cuda", torch.float64): Rate(3.9e-6, 1 / 10e12, 4e-12, 50e-6),
}
ENV_STEP = 70e-6  # seconds of an environment's


@dataclass(frozen=True)
class RunCost:
    """What a run takes, with others in a cohort or alone.

    Args:
        step, act: the work of a gradient step, and of acting for an evaluation's episodes.
        rate: of the device it is trained on.
        is_eager: whether Python calls the kernels of its steps.
        is_online: whether it acts in its environment between steps.
        stacks: whether runs of a cohort share kernels.
        eval_episodes: side by side.
        eval_every: gradient steps between evaluations.
        episode_steps: of an evaluation's longest episode.
        disk: bytes of its folder in the end.
    """

    step: Work
    act: Work
    rate: Rate
    is_eager: bool
    is_online: bool
    stacks: bool
    eval_episodes: int
    eval_every: int
    episode_steps: int
    disk: int

    def step_seconds(self, num_runs: int = 1) -> float:
        """Of a gradient step of so many runs, at one thread."""
        acting = num_runs * self.acting_seconds(1) if self.is_online else 0.0
        if self.stacks:
            return acting + self.rate.seconds(self.step, num_runs, by_host=self.is_eager)
        return acting + num_runs * self.rate.seconds(self.step, by_host=self.is_eager)

    def acting_seconds(self, num_episodes: int) -> float:
        """In which so many episodes, run together, take a step."""
        return self.rate.seconds(self.act, by_host=True) + num_episodes * ENV_STEP

    def evaluation_seconds(self) -> float:
        """Of one run's evaluation."""
        if not self.eval_episodes:
            return 0.0
        return self.episode_steps * self.acting_seconds(self.eval_episodes)

    def seconds(self, num_steps: int, num_runs: int = 1, num_threads: int = 1) -> float:
        """Of a cohort that takes ``num_steps`` more, in as many parts as there are threads."""
        largest = -(-num_runs // num_threads)  # the part that the others wait for
        evaluations = num_steps / self.eval_every * self.evaluation_seconds()
        return num_steps * self.step_seconds(largest) + evaluations * largest


def cost_of(spec: RunSpec) -> RunCost:
    """The cost of a run; a step of it is taken, on zeros.

    Raises:
        UserError: if it cannot be built.
    """
    trainer = spec.trainer
    # of two, as one alone says nothing of stacking
    placement = place(trainer, spec.algorithm.hidden_sizes, 2)
    online = _exploration(spec)
    spaces = (
        unknown_spaces(spec.algorithm)
        if online is None
        else (online.observation_space, online.action_space)
    )
    algorithm = build_algorithm(
        with_scaling_decided(spec, spaces[1]).algorithm,
        *spaces,
        replace(placement, device=torch.device("cpu")),
    )
    obs_dim = spaces[0].shape[0]
    step = _counted_step(algorithm, trainer.batch_size, obs_dim, act_size(spaces[1]))
    obs = np.zeros((max(1, trainer.eval_episodes), obs_dim), np.float32)
    with _Count() as act:
        algorithm.policy(Batch(obs=obs))
    rows = trainer.num_steps / trainer.log_every + trainer.num_steps / trainer.eval_every
    state = sum(x.nbytes + TENSOR_BYTES for x in _tensors(algorithm.state_dict()))
    if online is not None:  # a checkpoint holds all that the run collected
        collected = Collected(1, online.observation_space, online.action_space)
        state += trainer.num_steps * sum(x.nbytes for x in _tensors(collected.state_dict(1)))
    precision = placement.precision
    return RunCost(
        step=step,
        act=act.work,
        rate=RATES[placement.device.type, precision.compute_dtype or precision.dtype],
        is_eager=placement.engine == "eager",
        is_online=online is not None,
        stacks=placement.stacks and algorithm.is_pure,
        eval_episodes=trainer.eval_episodes,
        eval_every=trainer.eval_every,
        episode_steps=step_limit(spec.dataset) or EPISODE_STEPS,
        disk=int(CHECKPOINTS * state + rows * ROW_BYTES + RUN_BYTES),
    )


def unknown_spaces(spec: AlgorithmSpec) -> tuple[Box, ActionSpace]:
    """Spaces of recorded data that are not loaded; discrete actions for who learns no others."""
    learns_continuous = Box in algorithm_class(spec).action_spaces
    actions = Box(-1.0, 1.0, (ACT_DIM,)) if learns_continuous else Discrete(ACT_DIM)
    return Box(-np.inf, np.inf, (OBS_DIM,)), actions


def _exploration(spec: RunSpec) -> Exploration | None:
    """The environment of a run that collects its own data."""
    return load_task(spec.dataset) if spec.is_online else None


def _counted_step(
    algorithm: OfflineAlgorithm, batch_size: int, obs_dim: int, act_size: int
) -> Work:
    """The mean work of its turns, once optimizers have their state."""
    zeros = next(algorithm.parameters()).new_zeros
    batch = Batch(
        obs=zeros(batch_size, obs_dim),
        act=zeros(batch_size, act_size),
        rew=zeros(batch_size),
        terminated=zeros(batch_size),
        obs_next=zeros(batch_size, obs_dim),
    )
    shapes = algorithm.noise_shapes(batch_size)
    noise = type(shapes)._make(zeros(shape) for shape in shapes)
    turns = len(algorithm.steps)
    for _ in range(turns):
        algorithm.gradient_step(batch, noise)
    with _Count() as count:
        for _ in range(turns):
            algorithm.gradient_step(batch, noise)
    return count.work / turns


class _Count(TorchDispatchMode):
    """Counts the work of what is run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its own compiler to keep it out: a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        flops = flop_registry.get(func.overloadpacket)
        self.work = Work(
            self.work.kernels + 1,
            self.work.flops + (flops(*args, **(kwargs or {}), out_val=out) if flops else 0),
            self.work.numbers + sum(x.numel() for x in _tensors(out)),
        )
        return out


def _tensors(found: Any) -> Iterator[Tensor]:
    return (x for x in pytree.tree_leaves(found) if isinstance(x, Tensor))
