"""Timing in one process. A contestant is a script that ends by printing one line of JSON."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any

WARM_UP_STEPS = 150  # ours compiles after 128
CHUNK_STEPS = 100  # steps asked for at once: between two rows of train.csv


def steady_rate(
    advance: Callable[[int], object], seconds: float, *, chunk: int = CHUNK_STEPS
) -> dict[str, float]:
    """Steps a second of ``advance(n)`` over about ``seconds``, after a warm-up a fifth as long.

    The first call, which may build or compile something, counts neither as warm-up nor as time.
    """
    advance(WARM_UP_STEPS)
    rate = _rate(advance, chunk, seconds / 5)
    calls = max(1, round(rate * seconds / chunk))
    start = time.perf_counter()
    for _ in range(calls):
        advance(chunk)
    elapsed = time.perf_counter() - start
    return {"value": calls * chunk / elapsed, "steps": calls * chunk, "seconds": elapsed}


def _rate(advance: Callable[[int], object], chunk: int, seconds: float) -> float:
    start, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not steps:
        advance(chunk)
        steps += chunk
    return steps / elapsed if elapsed else float(chunk)


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """The least time one call of ``work`` took, among as many as fit into ``seconds``."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - start)
    return best


def peak_mib() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(**figures: Any) -> None:
    """Print the figures as the line that ends a contestant's output; ``value`` is the main one."""
    print(json.dumps(figures), flush=True)
