"""Times an agent that learns while it explores: environment steps a second, learner included.

.venv/bin/python -m tests.bench.online [--env Hopper-v5] [--seconds 10] [overrides]

The BCQ paper's behaviour agent: DDPG of the paper's sizes, batches of 100.
"""

from __future__ import annotations

import argparse
import time

from bcq_exp.config.schema import hidden_sizes
from bcq_exp.engine.placement import place
from bcq_exp.training import build
from tests.bench import timing
from tests.commands import compose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    cfg = compose(
        *("algo=ddpg", "networks=paper", "trainer=paper", "dataset=online"),
        *(f"dataset.env={args.env}", "dataset.start_steps=1000", "trainer.num_steps=100000"),
        *args.overrides,
    )
    task = build.build_dataset(cfg)
    placement = place(cfg.trainer, hidden_sizes(cfg))
    with placement.in_force():
        engine = build.build_engine([cfg], task, None, placement)
        engine.advance(1100)  # the random steps, and enough to record
        first, start = engine.step, time.perf_counter()
        while time.perf_counter() - start < args.seconds:
            engine.advance(50)
        rate = (engine.step - first) / (time.perf_counter() - start)
    timing.report(value=rate, peak_mib=timing.peak_mib())


if __name__ == "__main__":
    main()
