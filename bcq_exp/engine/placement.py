"""Where and how a cohort is trained: all that depends on the machine, resolved once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch

from bcq_exp.engine.executors import CUDAGraphExecutor, EagerExecutor, ExecutorFactory
from bcq_exp.engine.memory import free_bytes, keep_freed_memory, run_bytes
from bcq_exp.engine.precision import Precision, has_fast_bf16, resolve_precision
from bcq_exp.engine.stream import BLOCK_STEPS
from bcq_exp.engine.xla.compiler import XLACompiler
from bcq_exp.errors import UserError
from bcq_exp.formatting import counted

WIDE = 256  # hidden units above which matrix products dominate a step's time
STACKED_BELOW = 128  # above, on a CPU, one run fills a core, and several exceed its cache
EAGER_STEPS = 4 * BLOCK_STEPS  # compiling takes as long as a thousand eager steps of a small run
STACK_SIZE = 16  # more are no faster: tests/bench/RESULTS.md


class Settings(Protocol):
    """The keys of ``trainer`` that define the placement."""

    @property
    def device(self) -> str: ...
    @property
    def num_threads(self) -> int | None: ...
    @property
    def precision(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def batch_size(self) -> int: ...


@dataclass(frozen=True)
class Placement:
    """The resolved placement of a cohort.

    Args:
        device: the device of the tensors.
        precision: the types of the numbers.
        engine: the executor: eager, xla or cuda_graph.
        engine_is_required: whether the user asked for that executor.
        stacks: whether stacked runs train faster than runs in parallel.
        group_size: runs trained together.
        num_threads: engines that advance, and runs that are evaluated, at a time.
        torch_threads: torch's threads in each of them.
        xla_threads: XLA's threads, which all of them share.
    """

    device: torch.device
    precision: Precision
    engine: str
    engine_is_required: bool
    stacks: bool
    group_size: int
    num_threads: int
    torch_threads: int
    xla_threads: int

    def num_stacks(self, num_runs: int) -> int:
        """The number of stacks of ``num_runs`` runs: one per thread; a single one on a GPU."""
        if not self.stacks:
            return num_runs
        return min(self.num_threads, num_runs) if self.device.type == "cpu" else 1

    def __str__(self) -> str:
        """Describe the executor, the precision and the reason, for the log and the summary."""
        lacks_jax = self.device.type == "cpu" and find_spec("jax") is None
        why = {
            "xla": f", compiled by JAX after {EAGER_STEPS} eager steps",
            "eager": "; with JAX installed, steps are compiled"
            if lacks_jax
            else "; a network or an optimizer cannot be compiled",
            "cuda_graph": "",
        }[self.engine]
        if self.engine_is_required:
            why = ", by trainer.engine"
        if self.precision.compute_dtype == torch.bfloat16 and not has_fast_bf16(self.device):
            why += "; bfloat16 is emulated here and slow: trainer.precision=auto takes fp32"
        threads = f" ({counted(self.xla_threads, 'thread')})" if self.engine == "xla" else ""
        return f"{self.engine} on {self.device}{threads} in {self.precision}{why}"

    def executor(self) -> ExecutorFactory:
        """Return the factory of one cohort's executors."""
        if self.engine == "xla":
            return XLACompiler(self.engine_is_required, self.xla_threads)
        return CUDAGraphExecutor if self.engine == "cuda_graph" else EagerExecutor

    @property
    def eager_steps(self) -> int:
        """The steps that every run takes eagerly first, so that short runs do not compile.

        The number does not depend on the run's length, so that extended runs are identical.
        """
        return EAGER_STEPS if self.engine == "xla" and not self.engine_is_required else 0

    @property
    def buffered_steps(self) -> int:
        """The steps of one call of an executor: starting a program costs the time of a step."""
        return EAGER_STEPS if self.engine == "xla" else BLOCK_STEPS

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Apply torch's process-wide settings inside the block."""
        before = torch.get_num_threads()
        keep_freed_memory()
        torch.set_num_threads(self.torch_threads)
        try:
            with self.precision.in_force():
                yield
        finally:
            torch.set_num_threads(before)


def place(
    settings: Settings,
    hidden_sizes: Sequence[Sequence[int]],
    num_runs: int = 1,
    group_size: int | str = "auto",
) -> Placement:
    """Resolve the placement of ``num_runs`` runs that can be trained together.

    Args:
        hidden_sizes: the hidden layers of each network of a run, if known.
        group_size: runs to train together; ``auto`` is as many as are fastest: on a GPU as many as
            fit, on a CPU STACK_SIZE small runs, or one wide run, a core.

    Raises:
        UserError: for a device or precision that is not available here, or if ``group_size`` runs
            do not fit in memory.
    """
    device = resolve_device(settings.device)
    engine = resolve_engine(settings.engine, device)
    widest = max((size for sizes in hidden_sizes for size in sizes), default=0)
    precision = resolve_precision(settings.precision, device, are_wide=widest >= WIDE)
    a_run = run_bytes(hidden_sizes, settings.batch_size, double=precision.dtype == torch.float64)
    free = free_bytes(device)
    are_small = widest < STACKED_BELOW
    # compiled steps have no overhead that a stack could share
    stacks = device.type == "cuda" or (are_small and engine != "xla")
    available = settings.num_threads or torch.get_num_threads()
    size = _group_size(
        group_size,
        num_runs,
        fastest=num_runs if device.type == "cuda" else available * (STACK_SIZE if are_small else 1),
        a_run=a_run,
        free=free,
    )
    is_alone = num_runs == 1
    # dividing the work of small networks costs more than it gains
    shares = is_alone and (settings.num_threads is not None or widest >= WIDE)
    return Placement(
        device=device,
        precision=precision,
        engine=engine,
        engine_is_required=settings.engine != "auto",
        stacks=stacks,
        group_size=size,
        num_threads=1 if is_alone else available,
        torch_threads=available if shares else 1,
        xla_threads=available,
    )


def resolve_engine(name: str, device: torch.device) -> str:
    """Resolve ``trainer.engine``; auto is CUDA graphs on a GPU, XLA on a CPU with JAX.

    Raises:
        UserError: if the device or the installation does not support it.
    """
    is_cuda = device.type == "cuda"
    has_jax = find_spec("jax") is not None
    if name == "auto":
        return "cuda_graph" if is_cuda else "xla" if has_jax else "eager"
    if name == "cuda_graph" and not is_cuda:
        raise UserError(f"trainer.engine=cuda_graph: needs a CUDA device, not {device}; use auto")
    if name == "xla" and is_cuda:
        raise UserError(f"trainer.engine=xla: compiles for CPUs, not {device}; use cuda_graph")
    if name == "xla" and not has_jax:
        raise UserError("trainer.engine=xla: JAX is not installed; pip install jax, or use eager")
    return name


def _group_size(wanted: int | str, num_runs: int, *, fastest: int, a_run: int, free: int) -> int:
    fitting = max(1, free // a_run)
    if wanted == "auto":
        return min(num_runs, fastest, fitting)
    size = min(int(wanted), num_runs)
    if size > fitting:
        raise UserError(
            f"hydra.launcher.group_size={wanted}: {counted(size, 'run')} with these networks need "
            f"about {size * a_run / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; give at "
            f"most {fitting}, or auto"
        )
    return size


def resolve_device(device: str) -> torch.device:
    """Resolve ``trainer.device``.

    Raises:
        UserError: for a CUDA device that is missing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(
                f"trainer.device={device}: this machine has "
                f"{counted(torch.cuda.device_count(), 'CUDA device')}; use cpu or auto"
            )
    return torch.device(device)
