"""Memory and open files of long work: a run of 200,000 small steps, a sweep of 200 runs.

``python -m tests.bench.flat``: each is watched, all its processes together, and must not grow
between the second quarter of the time it trains and the last.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.commands import TINY, command

EVERY = 0.5  # seconds between looks
WORK = {
    "a run of 200,000 steps": (
        "name=long", "trainer.num_steps=200000", "trainer.log_every=500",
        "trainer.eval_every=10000", "trainer.checkpoint_every=5000",
    ),
    "a sweep of 200 runs, 4,000 steps each": (
        "-m", "name=wide", "seed=range(200)", "trainer.num_steps=4000", "trainer.log_every=200",
        "trainer.eval_every=1000", "trainer.checkpoint_every=1000",
    ),
}  # fmt: skip


def watch(arguments: Sequence[str], folder: Path) -> list[tuple[float, int]]:
    """(MiB of private memory, open files) of a command, each ``EVERY`` seconds."""
    process = subprocess.Popen(command(*TINY, *arguments), cwd=folder, stdout=subprocess.DEVNULL)
    top, seen = psutil.Process(process.pid), []
    while process.poll() is None:
        try:
            family = [top, *top.children(recursive=True)]
            memory = sum(p.memory_full_info().uss for p in family) / 2**20
            seen.append((memory, sum(p.num_fds() for p in family)))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(EVERY)
    if process.returncode:
        sys.exit(f"{arguments}: exit status {process.returncode}")
    return seen


def main() -> None:
    print("| work | seconds | MiB, second quarter | MiB, last quarter | open files, both |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, arguments in WORK.items():
        with tempfile.TemporaryDirectory() as folder:
            seen = watch(arguments, Path(folder))
        quarter = len(seen) // 4
        middle, end = seen[quarter : 2 * quarter], seen[-quarter:-2]
        memory = [statistics.median(mib for mib, _ in part) for part in (middle, end)]
        files = [max(count for _, count in part) for part in (middle, end)]
        seconds = len(seen) * EVERY
        print(f"| {name} | {seconds:.0f} | {memory[0]:.0f} | {memory[1]:.0f} | {files} |")


if __name__ == "__main__":
    main()
