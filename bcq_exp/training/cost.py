"""Estimate what a run costs before it is trained: count the work of a step, apply a rate.

The work is counted kernel by kernel while one real step runs on this host, so that it includes
whatever an algorithm declares (sampled actions, networks, turns). Recorded data are not loaded: the
estimate assumes the sizes of HalfCheetah. How fast a CPU multiplies matrices is measured; a GPU is
taken for an H200. Estimates are within a half of the measured time (tests/bench/RESULTS.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.batch import Batch
from bcq_exp.data.datasets import step_limit
from bcq_exp.data.online import Exploration
from bcq_exp.data.spaces import ActionSpace, act_size
from bcq_exp.data.task import load_task
from bcq_exp.engine.online_engine import step_type
from bcq_exp.engine.placement import place
from bcq_exp.engine.precision import has_fast_bf16
from bcq_exp.training.algorithms import algorithm_class, build_algorithm, with_scaling_decided
from bcq_exp.training.spec import AlgorithmSpec, RunSpec
from bcq_exp.training.tensor_files import tensors_in

OBS_DIM, ACT_DIM = 17, 6
EPISODE_STEPS = 1000  # assumed steps of an episode where the environment has no limit
ROW_BYTES = 200  # bytes of a line in train.csv or eval.csv
RUN_BYTES = 20_000  # bytes of a run's other files
TENSOR_BYTES = 350  # bytes of a tensor's entry in a checkpoint, besides its numbers
CHECKPOINTS = 2  # the last and the one before


@dataclass(frozen=True)
class Work:
    """The work of one gradient step, or of acting once.

    Args:
        kernels: kernels launched.
        flops: floating-point operations of matrix products.
        numbers: numbers that kernels write.
    """

    kernels: float = 0.0
    flops: float = 0.0
    numbers: float = 0.0

    def __truediv__(self, by: float) -> Work:
        return Work(self.kernels / by, self.flops / by, self.numbers / by)


@dataclass(frozen=True)
class Rate:
    """Seconds per kernel, floating-point operation and number written, on one thread."""

    kernel: float
    flop: float
    number: float
    host: float  # seconds of a kernel that Python calls

    def seconds(self, work: Work, num_runs: int = 1, *, by_host: bool = False) -> float:
        """Seconds that ``num_runs`` stacked runs take for this work: the same kernels, larger."""
        kernel = self.host if by_host else self.kernel
        return work.kernels * kernel + num_runs * (
            work.flops * self.flop + work.numbers * self.number
        )


# By type of products, fitted to steps of 1 and 27 runs (tests/bench/cost.py) as CUDA graphs on an
# H200; float64 is a guess.
CUDA_RATES = {
    torch.float32: Rate(3.9e-6, 1 / 23e12, 2e-12, 50e-6),
    torch.bfloat16: Rate(2.7e-6, 1 / 42e12, 1e-13, 50e-6),
    torch.float64: Rate(3.9e-6, 1 / 10e12, 4e-12, 50e-6),
}
# The speed of compiled steps' products on a CPU, over that of torch's in float32.
SPEEDS = {torch.float32: 0.8, torch.bfloat16: 1.2, torch.float64: 0.4}
EMULATED_BF16 = 0.55
PRODUCTS = 21  # timed products
ENV_STEP = 70e-6  # seconds of a step of an environment


@dataclass(frozen=True)
class RunCost:
    """The cost of a run, alone or in a cohort.

    Args:
        step, act: the work of a gradient step, and of acting for an evaluation's episodes.
        rate: the rate of its device.
        is_eager: whether Python calls the kernels of its steps.
        is_online: whether it acts in its environment between steps.
        stacks: whether runs of a cohort share kernels.
        eval_episodes: episodes of an evaluation, which run in parallel.
        eval_every: gradient steps between evaluations.
        episode_steps: steps of an evaluation's longest episode.
        disk: bytes of its folder at the end.
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
        """Seconds of a gradient step of so many runs, on one thread."""
        acting = num_runs * self.acting_seconds(1) if self.is_online else 0.0
        if self.stacks:
            return acting + self.rate.seconds(self.step, num_runs, by_host=self.is_eager)
        return acting + num_runs * self.rate.seconds(self.step, by_host=self.is_eager)

    def acting_seconds(self, num_episodes: int) -> float:
        """Seconds in which so many parallel episodes take a step."""
        return self.rate.seconds(self.act, by_host=True) + num_episodes * ENV_STEP

    def evaluation_seconds(self) -> float:
        """Seconds of one run's evaluation."""
        if not self.eval_episodes:
            return 0.0
        return self.episode_steps * self.acting_seconds(self.eval_episodes)

    def seconds(self, num_steps: int, num_runs: int = 1, num_threads: int = 1) -> float:
        """Seconds of ``num_steps`` more steps of a cohort, divided among threads."""
        largest = -(-num_runs // num_threads)  # the largest part, which the others wait for
        num_evaluations = -(-num_steps // self.eval_every)  # one at the end in any case
        evaluations = num_evaluations * self.evaluation_seconds()
        return num_steps * self.step_seconds(largest) + evaluations * largest


def cost_of(spec: RunSpec) -> RunCost:
    """Return the cost of a run, by one step on zeros.

    Raises:
        UserError: if it cannot be built.
    """
    trainer = spec.trainer
    # two runs, because one alone does not show stacking
    placement = place(trainer, spec.algorithm.hidden_sizes, 2)
    online: Exploration | None = load_task(spec.dataset) if spec.is_online else None
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
    state = sum(x.nbytes + TENSOR_BYTES for x in tensors_in(algorithm.state_dict()))
    if online is not None:  # a checkpoint holds all that the run collected
        one = step_type(online.observation_space, online.action_space)
        state += trainer.num_steps * one.itemsize
    precision = placement.precision
    return RunCost(
        step=step,
        act=act.work,
        rate=_rate(placement.device.type, precision.compute_dtype or precision.dtype),
        is_eager=placement.engine == "eager",
        is_online=online is not None,
        stacks=placement.stacks and algorithm.can_be_stacked,
        eval_episodes=trainer.eval_episodes,
        eval_every=trainer.eval_every,
        episode_steps=step_limit(spec.dataset) or EPISODE_STEPS,
        disk=int(CHECKPOINTS * state + rows * ROW_BYTES + RUN_BYTES),
    )


@cache
def _rate(device: str, dtype: torch.dtype) -> Rate:
    """Return the rate of a device; a CPU multiplies matrices for some milliseconds first."""
    if device == "cuda":
        return CUDA_RATES[dtype]
    speed = SPEEDS[dtype]
    if dtype == torch.bfloat16 and not has_fast_bf16(torch.device("cpu")):
        speed = EMULATED_BF16
    number = 6.4e-10 if dtype == torch.float64 else 3.2e-10
    return Rate(2.8e-6, _seconds_per_flop() / speed, number, 10e-6)


def _seconds_per_flop() -> float:
    """Time a product of a step's size on one thread, without what other processes take of it."""
    a, b = torch.ones(100, 400), torch.ones(400, 300)
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(PRODUCTS):
        start = time.thread_time()
        torch.mm(a, b)
        times.append(time.thread_time() - start)
    torch.set_num_threads(threads)
    return min(times) / (2 * a.numel() * b.shape[1])


def unknown_spaces(spec: AlgorithmSpec) -> tuple[Box, ActionSpace]:
    """Assumed spaces of data not loaded; discrete actions if the algorithm learns no others."""
    learns_continuous = Box in algorithm_class(spec).action_spaces
    actions = Box(-1.0, 1.0, (ACT_DIM,)) if learns_continuous else Discrete(ACT_DIM)
    return Box(-np.inf, np.inf, (OBS_DIM,)), actions


def _counted_step(
    algorithm: OfflineAlgorithm, batch_size: int, obs_dim: int, act_size: int
) -> Work:
    """Count the mean work of the steps, once optimizers have their state."""
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
    """Counts the work of operators inside the block."""

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
            self.work.numbers + sum(x.numel() for x in tensors_in(out)),
        )
        return out
