"""Times the command itself: to the first training step's row, or through ``train --help``.

.venv/bin/python -m tests.bench.startup {first-step,help}

Needs no hook in the program: a run of one step writes ``train.csv`` as soon as the step is done,
so the file's modification time less the moment the command was started is what a user waits for,
the row's writing included. W&B is offline, as by default. A first run makes and caches the data
and is not timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import timing
from tests.bench.arguments import parse

COMMAND = [sys.executable, "-m", "bcq_exp"]


def first_step(overrides: list[str]) -> float:
    """Seconds from the command to the first row of training, on cached data."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _train(root, "warm", overrides)
        started = _train(root, "timed", overrides)
        return (root / "multirun" / "timed" / "train.csv").stat().st_mtime - started


def _train(root: Path, name: str, overrides: list[str]) -> float:
    env = {
        **os.environ,
        "MINARI_DATASETS_PATH": str(root / "minari"),
        "XDG_CACHE_HOME": str(root / "cache"),
    }
    command = [*COMMAND, f"name={name}", "trainer.num_steps=1", *overrides]
    started = time.time()
    subprocess.run(command, cwd=root, env=env, check=True, stdout=subprocess.DEVNULL)
    return started


def show_help(overrides: list[str]) -> float:
    """Seconds that ``train --help`` takes."""
    start = time.perf_counter()
    subprocess.run([*COMMAND, "train", "--help", *overrides], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


MODES = {"first-step": first_step, "help": show_help}


def main() -> None:
    args = parse(__doc__, modes=tuple(MODES))
    timing.report(value=MODES[args.mode](args.overrides))


if __name__ == "__main__":
    main()
