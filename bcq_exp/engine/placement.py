"""Where and how a cohort is trained: everything that depends on the machine, resolved once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from bcq_exp.engine.capture import (
    Capture,
    cuda_graph,
    eager,
    inductor,
    inductor_cuda_graph,
    kernel_list,
)
from bcq_exp.engine.memory import free_bytes, keep_freed_memory, run_bytes
from bcq_exp.engine.precision import Precision, resolve_precision
from bcq_exp.errors import UserError

WIDE = 256  # hidden units from which products, not the overhead around them, take a step's time
STACKED_BELOW = 128  # above, on a CPU, one run's products fill a core, and several leave its cache
STACK_SIZE = 16  # more are no faster: tests/bench/RESULTS.md
CAPTURES: dict[tuple[str, bool], Capture] = {  # by device and trainer.compile
    ("cpu", False): kernel_list,
    ("cpu", True): inductor,
    ("cuda", False): cuda_graph,
    ("cuda", True): inductor_cuda_graph,
}


class Settings(Protocol):
    """What a user says of it: these keys of ``trainer``."""

    device: str
    num_threads: int | None
    precision: str
    capture: str
    compile: bool
    batch_size: int


@dataclass(frozen=True)
class Placement:
    """What a sweep's plan, the build and the benchmarks share.

    Args:
        device: where the tensors lie.
        precision: the types of the numbers.
        capture: how steps are replayed.
        stacks: whether stacked runs train faster than the same runs side by side.
        group_size: runs trained together.
        num_threads: engines that advance, and runs that are evaluated, at a time.
        torch_threads: of torch, in each of them.
    """

    device: torch.device
    precision: Precision
    capture: Capture
    stacks: bool
    group_size: int
    num_threads: int
    torch_threads: int

    def num_stacks(self, num_runs: int) -> int:
        """Into how many stacks runs are divided: one a thread; a GPU has all of them as one."""
        return min(self.num_threads, num_runs) if self.device.type == "cpu" else 1

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Torch's process-wide settings as this wants them, then as they were."""
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
    """The placement of ``num_runs`` runs that can be trained together.

    Args:
        hidden_sizes: of each network of a run, as far as they are known.
        group_size: runs to train together; ``auto`` is as many as are fastest: on a GPU as many as
            fit, on a CPU a stack of STACK_SIZE small runs a core, or one run a core where stacking
            does not pay.

    Raises:
        UserError: for a device or precision that is not to be had here, or if ``group_size`` runs
            do not fit in memory.
    """
    device = resolve_device(settings.device)
    widest = max((size for sizes in hidden_sizes for size in sizes), default=0)
    precision = resolve_precision(settings.precision, device, are_wide=widest >= WIDE)
    stacks = device.type == "cuda" or widest < STACKED_BELOW
    available = settings.num_threads or torch.get_num_threads()
    a_run = run_bytes(hidden_sizes, settings.batch_size, double=precision.dtype == torch.float64)
    size = _group_size(
        group_size,
        num_runs,
        fastest=num_runs if device.type == "cuda" else available * (STACK_SIZE if stacks else 1),
        a_run=a_run,
        free=free_bytes(device),
    )
    is_alone = num_runs == 1
    # small networks lose more by sharing their work than they gain
    shares = is_alone and (settings.num_threads is not None or widest >= WIDE)
    return Placement(
        device=device,
        precision=precision,
        capture=eager if settings.capture == "eager" else CAPTURES[device.type, settings.compile],
        stacks=stacks,
        group_size=size,
        num_threads=1 if is_alone else available,
        torch_threads=available if shares else 1,
    )


def _group_size(wanted: int | str, num_runs: int, *, fastest: int, a_run: int, free: int) -> int:
    fitting = max(1, free // a_run)
    if wanted == "auto":
        return min(num_runs, fastest, fitting)
    size = min(int(wanted), num_runs)
    if size > fitting:
        raise UserError(
            f"hydra.launcher.group_size={wanted}: {size} runs of these networks need about "
            f"{size * a_run / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; at most {fitting}, "
            "or auto"
        )
    return size


def resolve_device(device: str) -> torch.device:
    """The torch device of ``trainer.device``.

    Raises:
        UserError: for a CUDA device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(
                f"trainer.device={device}: this machine has {torch.cuda.device_count()} CUDA "
                "devices; use cpu or auto"
            )
    return torch.device(device)
