"""Assemble the engine of a cohort from algorithms, data and random streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.data.datasets import Dataset
from bcq_exp.data.online import Exploration
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.buffers import MappedTransitions, TransitionRows, TransitionTable
from bcq_exp.engine.engine import CohortEngine, Engine, ParallelEngine
from bcq_exp.engine.executors import ExecutorFactory
from bcq_exp.engine.explorer import Explorer
from bcq_exp.engine.online_engine import OnlineEngine
from bcq_exp.engine.placement import Placement
from bcq_exp.engine.stream import DeviceStream, GrowingStream, HostStream, RandomStream
from bcq_exp.errors import UserError
from bcq_exp.formatting import counted


class Sampling(Protocol):
    """The keys of ``trainer`` that define how steps sample transitions."""

    num_steps: int
    batch_size: int
    concurrent_from: int | None


def build_engine(
    algorithms: Sequence[OfflineAlgorithm],
    seeds: Sequence[int],
    task: Task,
    units: Callable[[Transitions], Transitions],
    sampling: Sampling,
    placement: Placement,
) -> Engine:
    """Build the engine of a cohort.

    Args:
        algorithms: the algorithms with initial weights, on their device.
        seeds: the seeds of their runs.
        task: the data set, or the environment in which each run collects its own.
        units: converts transitions to the networks' units.

    Raises:
        UserError: if ``trainer.concurrent_from`` does not fit the data.
    """
    if isinstance(task, Exploration):
        executor = placement.executor()  # the compiler is shared by all runs
        engines: Sequence[CohortEngine | OnlineEngine] = [
            _online(algorithm, seed, task, sampling, executor, placement.eager_steps)
            for algorithm, seed in zip(algorithms, seeds, strict=True)
        ]
    else:
        assert isinstance(task, Dataset)
        engines = _offline(algorithms, seeds, task.transitions, units, sampling, placement)
    return engines[0] if len(engines) == 1 else ParallelEngine(engines, placement.num_threads)


def _online(
    algorithm: OfflineAlgorithm,
    seed: int,
    task: Exploration,
    sampling: Sampling,
    executor: ExecutorFactory,
    eager_steps: int,
) -> OnlineEngine:
    if sampling.concurrent_from is not None:
        raise UserError(
            f"trainer.concurrent_from={sampling.concurrent_from}: online=explore collects its "
            "data during training already; use null, and online.start_steps"
        )
    return OnlineEngine(
        algorithm,
        Explorer(task.make_env(), seed, task.start_steps, task.noise_std),
        capacity=sampling.num_steps,
        start_steps=task.start_steps,
        stream=GrowingStream(
            seed=seed,
            num_rows=sampling.num_steps,
            batch_size=sampling.batch_size,
            noise=algorithm.noise_shapes(sampling.batch_size),
            first_rows=task.start_steps + 1,
        ),
        executor=executor,
        eager_steps=eager_steps,
    )


def _offline(
    algorithms: Sequence[OfflineAlgorithm],
    seeds: Sequence[int],
    transitions: Transitions,
    units: Callable[[Transitions], Transitions],
    sampling: Sampling,
    placement: Placement,
) -> list[CohortEngine]:
    """Build the engine of runs on a data set, in stacks or each alone."""
    dtype, device, num_runs = placement.precision.dtype, placement.device, len(algorithms)
    in_place = transitions.is_large and device.type == "cpu"
    table: TransitionRows = (
        MappedTransitions(transitions, dtype, units)
        if in_place
        else TransitionTable.of(transitions, dtype, device, units)
    )
    streams = [
        build_stream(algorithm, seed, len(transitions), sampling, device)
        for algorithm, seed in zip(algorithms, seeds, strict=True)
    ]
    stacks = placement.stacks and all(algorithm.can_be_stacked for algorithm in algorithms)
    parts = placement.num_stacks(num_runs) if stacks else num_runs
    bounds = [num_runs * i // parts for i in range(parts + 1)]
    how = placement.executor(), placement.eager_steps, placement.buffered_steps
    return [CohortEngine(algorithms[a:b], table, streams[a:b], *how) for a, b in pairwise(bounds)]


def build_stream(
    algorithm: OfflineAlgorithm,
    seed: int,
    num_rows: int,
    sampling: Sampling,
    device: torch.device,
) -> RandomStream:
    """Build a run's random stream, on the device where it trains.

    Raises:
        UserError: if ``trainer.concurrent_from`` is more than the number of transitions.
    """
    first_rows = sampling.concurrent_from
    needs = {
        "seed": seed,
        "num_rows": num_rows,
        "batch_size": sampling.batch_size,
        "noise": algorithm.noise_shapes(sampling.batch_size),
    }
    if first_rows is not None:
        if first_rows > num_rows:
            raise UserError(
                f"trainer.concurrent_from={first_rows}: the data set has "
                f"{counted(num_rows, 'transition')}; give at most as many, or null"
            )
        return GrowingStream(**needs, first_rows=first_rows)
    return HostStream(**needs) if device.type == "cpu" else DeviceStream(**needs, device=device)
