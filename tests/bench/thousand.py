"""Times what people wait for with a thousand runs: a launch, a second one, status, compare.

.venv/bin/python -m tests.bench.thousand {launch,again,status,compare}

``launch`` is from the command to the first row of training of any run (then it is stopped).
``again``, ``status`` and ``compare`` are the whole commands on complete runs of 1,000 rows, which
are made up: a few written by RunRecord, the others after them, each with numbers of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from bcq_exp.sweep import state
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_run
from tests.bench import timing
from tests.bench.arguments import parse
from tests.commands import compose

NAME, NUM_ROWS, WRITTEN = "thousand", 1000, 8
NUM_STEPS, NUM_EVALUATIONS = 20_000, 20  # as make_run has them
LMBDAS, TAUS, NUM_SEEDS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.001, 0.002, 0.005, 0.01), 50
GRID = (
    "-m",
    f"name={NAME}",
    f"algo.lmbda={','.join(map(str, LMBDAS))}",
    f"algo.tau={','.join(map(str, TAUS))}",
    f"seed=range(0,{NUM_SEEDS})",
)
FOLDER = Path("multirun", NAME)


def launch(root: Path, overrides: list[str]) -> float:
    """Seconds from the command to the first step of a grid of which nothing is there."""
    subprocess.run(_command("trainer.num_steps=1", "name=warm", *overrides), cwd=root, check=True)
    started = time.time()
    process = subprocess.Popen(_command(*GRID, *overrides), cwd=root)
    try:
        while not (found := list(root.glob(f"{FOLDER}/*/train.csv"))):
            time.sleep(0.05)
            assert process.poll() is None, "it ended before its first step"
        return min(path.stat().st_mtime for path in found) - started
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def again(root: Path, overrides: list[str]) -> float:
    """Seconds that the launch of a complete grid takes."""
    return _seconds(make(root), _command(*GRID, f"trainer.num_steps={NUM_STEPS}", *overrides))


def status(root: Path, overrides: list[str]) -> float:
    """Seconds that ``bcq_exp.status`` takes."""
    return _seconds(make(root), _command(str(FOLDER), module="bcq_exp.status"))


def compare(root: Path, overrides: list[str]) -> float:
    """Seconds that ``bcq_exp.compare`` takes."""
    return _seconds(make(root), _command(str(FOLDER), module="bcq_exp.compare"))


def make(root: Path) -> Path:
    """``root`` with a complete sweep of GRID in it; what is there already stays."""
    sweep = root / FOLDER
    if sweep.exists():
        return root
    cfg = compose(f"name={NAME}", f"trainer.num_steps={NUM_STEPS}")
    for number in range(WRITTEN):
        rng = np.random.default_rng(number)
        curve = {"q1_mean": np.cumsum(rng.normal(0.1, 1, NUM_ROWS))}
        returns = list(np.sort(rng.normal(-400, 200, NUM_EVALUATIONS)))
        folder = root / f"{number}"
        make_run(folder, returns, seed=number, training=curve, num_rows=NUM_ROWS)
    names = []
    for lmbda in LMBDAS:
        for tau in TAUS:
            for seed in range(NUM_SEEDS):
                names.append(f"algo.lmbda={lmbda},algo.tau={tau},seed={seed}")
                changes = {"algo.lmbda": lmbda, "algo.tau": tau, "seed": seed}
                _copy(root / f"{len(names) % WRITTEN}", sweep / names[-1], cfg, changes)
    state.expect(sweep, names, "")
    return root


def _copy(written: Path, folder: Path, cfg: DictConfig, changes: dict[str, Any]) -> None:
    shutil.copytree(written, folder)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    record = RunRecord(folder)
    summary, columns = record.summary(), record.columns("train")
    assert summary is not None
    noise = np.random.default_rng(changes["seed"]).normal(1, 0.01, NUM_ROWS)
    rows = np.stack([v if k == "step" else v * noise for k, v in columns.items()], 1).tolist()
    lines = [",".join(map(str, [int(step), *values])) for step, *values in rows]
    (folder / "train.csv").write_text("\r\n".join([",".join(columns), *lines, ""]))
    summary |= {"config": OmegaConf.to_container(cfg), "seed": changes["seed"]}
    summary["last"]["return_mean"] += 100 * changes["algo.lmbda"] + changes["seed"]
    record.write_summary(summary)


def _command(*arguments: str, module: str = "bcq_exp") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _seconds(root: Path, command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


MODES = {"launch": launch, "again": again, "status": status, "compare": compare}


def main() -> None:
    args = parse(__doc__, modes=tuple(MODES))
    root = os.environ.get("BENCH_THOUSAND")  # runs made before, to be used again
    with tempfile.TemporaryDirectory() as folder:
        timing.report(value=MODES[args.mode](Path(root or folder), args.overrides))


if __name__ == "__main__":
    main()
