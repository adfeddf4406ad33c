"""Memory and time of training on 10M transitions of HalfCheetah's size: what a mapped set takes.

    python -m tests.bench.large [--episodes 10000] [--steps 1000] [--folder DIR] [overrides]

Makes the data set in a temporary folder (2.4 GB, and 1.7 GB of cached arrays, deleted afterwards),
then trains 300 steps on it three times, each in a fresh process: from HDF5, from the cache, and
from the cache with nothing of it in the system's memory. Prints a line of JSON each: seconds from
asking for the data to the end of the first step, steps per second, and resident memory in MiB above
what the process had before the load: private (RssAnon: at its most, and in the end), and of mapped
files (RssFile, which the system takes back when it has to), beside the size of the arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.bench import timing
from tests.bench.load_1m import DATASET_ID, memory_bytes, surroundings, write_dataset

STEPS = 300
SIZES = ("networks=small", "trainer.batch_size=100", "trainer.device=cpu")


def resident_mib(kind: str) -> float:
    """``RssAnon`` (private) or ``RssFile`` (mapped files) of this process."""
    return memory_bytes(kind) / 2**20


class MostPrivate(threading.Thread):
    """Looks every few milliseconds how much private memory the process has."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        while True:
            self.most = max(self.most, resident_mib("RssAnon"))
            time.sleep(0.005)


def measure(overrides: list[str]) -> None:
    """Load and train in this process; imports are neither timed nor counted."""
    from bcq_exp.data.datasets import Dataset
    from bcq_exp.data.task import load_task
    from bcq_exp.training import build
    from tests.commands import compose, engine_of, placement_of

    dataset = ("dataset=minari", f"dataset.id={DATASET_ID}", "dataset.download=false")
    cfg = compose(*SIZES, *dataset, *overrides)
    placement = placement_of(cfg)
    before = {kind: resident_mib(kind) for kind in ("RssAnon", "RssFile")}
    watch = MostPrivate()
    watch.start()
    start = time.perf_counter()
    task = load_task(cfg.dataset)
    assert isinstance(task, Dataset)
    loaded = time.perf_counter() - start
    with placement.in_force():
        normalizer = build.build_normalizer(cfg.trainer.normalize_obs, task, None)
        engine = engine_of([cfg], task, normalizer)
        engine.advance(1)
        first_step = time.perf_counter() - start
        engine.advance(STEPS // 3 - 1)  # enough to record
        recorded = time.perf_counter()
        engine.advance(STEPS - STEPS // 3)
        rate = (STEPS - STEPS // 3) / (time.perf_counter() - recorded)
    arrays = task.transitions.arrays().values()
    timing.report(
        transitions=len(task.transitions),
        load_seconds=round(loaded, 2),
        first_step_seconds=round(first_step, 2),
        steps_per_second=round(rate),
        private_most_mib=round(watch.most - before["RssAnon"]),
        private_mib=round(resident_mib("RssAnon") - before["RssAnon"]),
        mapped_mib=round(resident_mib("RssFile") - before["RssFile"]),
        arrays_mib=round(sum(array.nbytes for array in arrays) / 2**20),
    )


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's memory."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", help="where the temporary folder goes")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the configuration")
    args = parser.parse_args()
    if args.measure:
        measure(args.overrides)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        write_dataset(root / "minari", args.episodes, args.steps)
        command = [sys.executable, "-m", "tests.bench.large", "--measure", *args.overrides]
        for name in ("HDF5", "cache", "cache on disk alone"):
            if name.endswith("alone"):
                forget(root / "cache")
            result = subprocess.run(
                command, env=surroundings(root), check=True, stdout=subprocess.PIPE, text=True
            )
            print(json.dumps({"from": name} | json.loads(result.stdout)), flush=True)


if __name__ == "__main__":
    main()
