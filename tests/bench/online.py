"""Times an agent that learns while it explores: environment steps a second, learner included.

.venv/bin/python -m tests.bench.online [--env Hopper-v5] [--seconds 10] [--agents 1] [overrides]

The BCQ paper's behaviour agent: DDPG of the paper's sizes, batches of 100. Several agents train
side by side, a process and a thread each, as ``hydra/launcher=joblib`` has them; their steps are
added.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import get_context

from bcq_exp.config.schema import source
from bcq_exp.data.task import load_task
from tests.bench import timing
from tests.commands import compose, engine_of, placement_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.agents == 1:
        timing.report(value=rate(args), peak_mib=timing.peak_mib())
        return
    args.overrides.append("trainer.num_threads=1")
    with get_context("spawn").Pool(args.agents) as pool:
        rates = pool.map(rate, [args] * args.agents, chunksize=1)
    timing.report(value=sum(rates))


def rate(args: argparse.Namespace) -> float:
    """Environment steps a second of one agent."""
    cfg = compose(
        *("algo=ddpg", "networks=paper", "trainer=paper", "online=explore"),
        *(f"online.env={args.env}", "online.start_steps=1000", "trainer.num_steps=100000"),
        *args.overrides,
    )
    task = load_task(source(cfg))
    placement = placement_of(cfg)
    with placement.in_force():
        engine = engine_of([cfg], task)
        engine.advance(1150)  # the random steps, and enough to compile
        first, start = engine.step, time.perf_counter()
        while time.perf_counter() - start < args.seconds:
            engine.advance(50)
        return (engine.step - first) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
