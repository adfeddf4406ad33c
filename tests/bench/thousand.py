"""Times what people wait for with a thousand runs: launch, launch again, status, compare.

.venv/bin/python -m tests.bench.thousand [overrides of the launch, such as logger=none]

A launch is from the command to the first row of training of any run (then it is stopped). The
others are whole commands on complete runs of 1,000 rows, which are made up: a few written by
RunRecord, the others after them, each with numbers of its own. Beside the seconds stand the
processor's, which say more where others use the machine.
"""

from __future__ import annotations

import argparse
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
import psutil
from omegaconf import DictConfig, OmegaConf

from bcq_exp.sweep import state
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_run
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


def launch(root: Path, overrides: list[str]) -> dict[str, float]:
    """From the command to the first step of a grid of which nothing is there."""
    overrides = ["trainer.num_steps=1", *overrides]  # whose row is written when it is done
    warm = _command("name=warm", *overrides)  # makes and caches the data
    subprocess.run(warm, cwd=root, check=True, stdout=subprocess.DEVNULL)
    started = time.time()
    process = subprocess.Popen(_command(*GRID, *overrides), cwd=root, stdout=subprocess.DEVNULL)
    try:
        while not (found := list(root.glob(f"{FOLDER}/*/train.csv"))):
            time.sleep(0.05)
            assert process.poll() is None, "it ended before its first step"
        used = psutil.Process(process.pid).cpu_times()
        first = min(path.stat().st_mtime for path in found)
        return {"seconds": first - started, "processor": used.user + used.system}
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def make(root: Path) -> None:
    """A complete sweep of GRID below ``root``."""
    sweep = root / FOLDER
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
                names.append(f"lmbda={lmbda},tau={tau},seed={seed}")
                changes = {"algo.lmbda": lmbda, "algo.tau": tau, "seed": seed}
                _copy(root / f"{len(names) % WRITTEN}", sweep / names[-1], cfg, changes)
    state.expect(sweep, names, "")


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
    summary |= {"config": OmegaConf.to_container(cfg, resolve=True), "seed": changes["seed"]}
    summary["last"]["return_mean"] += 100 * changes["algo.lmbda"] + changes["seed"]
    record.write_summary(summary)


def _command(*arguments: str, module: str = "bcq_exp") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _whole(root: Path, command: list[str]) -> dict[str, float]:
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, os.times()
    children = after.children_user + after.children_system
    return {
        "seconds": seconds,
        "processor": children - before.children_user - before.children_system,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of the launch, such as logger=none")
    overrides = parser.parse_args().overrides
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures["launch"] = launch(Path(folder), overrides)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        figures["again"] = _whole(root, _command(*GRID, f"trainer.num_steps={NUM_STEPS}"))
        figures["status"] = _whole(root, _command(str(FOLDER), module="bcq_exp.status"))
        figures["compare"] = _whole(root, _command(str(FOLDER), module="bcq_exp.compare"))
        page = root / FOLDER / "report" / "index.html"
        figures["page"] = {"MB": page.stat().st_size / 1e6}
    for name, values in figures.items():
        print(name, ", ".join(f"{value:.1f} {unit}" for unit, value in values.items()), flush=True)


if __name__ == "__main__":
    main()
