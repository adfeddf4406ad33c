"""Times a sweep's runs as one cohort, beside the same runs one by one, in turns in one process.

.venv/bin/python -m tests.bench.cohort [--runs 27] [--repeats 5] [overrides of every run]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from bcq_exp.data.task import load_task
from bcq_exp.engine.engine import Engine
from bcq_exp.engine.placement import Placement
from tests.commands import compose, engine_of, placement_of

STEPS = 100


def run_steps_per_second(engine: Engine, num_runs: int, placement: Placement) -> float:
    """Gradient steps a second, over all runs of the engine."""
    with placement.in_force():
        start = time.perf_counter()
        engine.advance(STEPS)
        return num_runs * STEPS / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=27)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    grid = [(k / args.runs, k % 3) for k in range(args.runs)]
    cfgs = [compose(f"algo.lmbda={lmbda}", f"seed={s}", *args.overrides) for lmbda, s in grid]
    dataset = load_task(cfgs[0].dataset)
    of_all, of_one = (placement_of(cfgs[0], n) for n in (args.runs, 1))
    together, alone = engine_of(cfgs, dataset), engine_of(cfgs[:1], dataset)
    rates: list[tuple[float, float]] = []
    for repeat in range(args.repeats + 1):
        pair = (
            run_steps_per_second(together, args.runs, of_all),
            run_steps_per_second(alone, 1, of_one),
        )
        if repeat:  # the first one captures
            rates.append(pair)
            print(f"{repeat}: {pair[0]:.0f} together, {pair[1]:.0f} one by one", flush=True)
    ratios = sorted(a / b for a, b in rates)
    print(
        f"{args.runs} runs: {median(a for a, _ in rates):.0f} run-steps/s together, "
        f"{median(b for _, b in rates):.0f} one by one: {median(ratios):.2f}x "
        f"({ratios[0]:.2f} - {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
