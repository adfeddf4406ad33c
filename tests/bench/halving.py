"""Successive halving beside the whole grid: does it find the same winner, and what does it save?

.venv/bin/python -m tests.bench.halving [overrides: the grid, and what stands]

Both are launched with five seeds, on the built-in data. Halving decides by the mean of the seeds;
what it would decide by each seed alone is told by the grid's evaluations, as its runs are the
grid's, up to rounding. Regret is the grid's best last return less the last return of the setting
that halving ends with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bcq_exp.analysis import load_runs
from bcq_exp.sweep.rungs import compare, rung_sizes, rung_steps
from tests.commands import compose

NUM_SEEDS = 5
GRID = ("algo.lmbda=0.5,0.75,1.0", "algo.tau=0.001,0.005,0.01", "algo.num_sampled_action=5,10,20")


def launch(root: Path, name: str, overrides: Iterable[str]) -> float:
    """Train a sweep under ``root``; the seconds it took."""
    words = [sys.executable, "-m", "bcq_exp", "-m", f"name={name}", *overrides]
    started = time.perf_counter()
    subprocess.run(words, cwd=root, check=True)
    return time.perf_counter() - started


def returns_of(folder: Path) -> pd.DataFrame:
    """A row an evaluation: setting, seed, step, return_mean."""
    runs = load_runs(folder)
    told = pd.DataFrame({"setting": runs.groups(), "seed": runs.runs["seed"]})
    return runs.evaluations.join(told, on="run")[["setting", "seed", "step", "return_mean"]]


def halved(returns: pd.DataFrame, steps: list[int], eta: int) -> str:
    """The setting that halving ends with, where runs are evaluated so."""
    means = returns.groupby(["step", "setting"], sort=False)["return_mean"].mean()
    left = list(returns["setting"].unique())
    sizes = rung_sizes(len(left), eta, len(steps))
    for step, num_kept in zip(steps, [*sizes[1:], 1], strict=True):
        left = compare(step, {name: means[step, name] for name in left}, num_kept).continuing
    return left[0]


def table_row(who: str, last: dict[Any, float], winner: str) -> str:
    ranked = sorted(last, key=lambda name: -last[name])
    best, worst = ranked[0], ranked[-1]
    return (
        f"| {who} | {best} | {last[best]:.1f} | {winner} | {ranked.index(winner) + 1} | "
        f"{last[best] - last[winner]:.1f} | {last[best] - last[worst]:.1f} |"
    )


def main() -> None:
    """Launch both and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="keeps the sweeps; complete ones are taken up")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--rungs", type=float, nargs="+", default=[0.25])
    options, given = parser.parse_known_args()
    swept = [each for each in given if "," in each]
    stand = ["logger=none", *(each for each in given if each not in swept)]
    seeds = range(options.first_seed, options.first_seed + NUM_SEEDS)
    trainer = compose(*stand).trainer
    steps = rung_steps(trainer.num_steps, trainer.eval_every, options.rungs)
    halving = (f"hydra.sweeper.eta={options.eta}", f"hydra.sweeper.rungs={options.rungs}")
    with tempfile.TemporaryDirectory() as place:
        root = options.root or Path(place)
        root.mkdir(exist_ok=True)
        overrides = [*stand, *(swept or GRID), f"seed=range({seeds.start},{seeds.stop})"]
        seconds = {
            "grid": launch(root, "grid", overrides),
            "halved": launch(root, "halved", [*overrides, "hydra/sweeper=halving", *halving]),
        }
        grid, ours = (returns_of(root / "multirun" / name) for name in seconds)
    taken = ours.groupby(["setting", "seed"])["step"].max().sum()
    whole = grid.groupby(["setting", "seed"])["step"].max().sum()
    print(f"\ncompared at steps {', '.join(map(str, steps))}; one in {options.eta} goes on\n")
    print("| by | grid's best | its return | halving's | its rank | regret | best less worst |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    for seed in seeds:
        own = grid[grid["seed"] == seed]
        last = own[own["step"] == steps[-1]].set_index("setting")["return_mean"]
        print(table_row(f"seed {seed}", last.to_dict(), halved(own, steps, options.eta)))
    last = grid[grid["step"] == steps[-1]].groupby("setting")["return_mean"].mean()
    end = ours[ours["step"] == steps[-1]].groupby("setting")["return_mean"].mean()
    print(table_row("their mean", last.to_dict(), str(end.idxmax())))
    print(
        f"\n{taken:.0f} of {whole:.0f} run-steps ({taken / whole:.0%}); {seconds['halved']:.0f} s "
        f"of {seconds['grid']:.0f} s ({seconds['halved'] / seconds['grid']:.0%})"
    )


if __name__ == "__main__":
    main()
