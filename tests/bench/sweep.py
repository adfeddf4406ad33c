"""Times a sweep's runs as one cohort: gradient steps a second, all runs together.

.venv/bin/python -m tests.bench.sweep [--size small] [overrides of every run]
"""

from __future__ import annotations

from tests.bench import composed, timing
from tests.bench.arguments import parse
from tests.commands import engine_of, placement_of

NUM_RUNS = 27


def main() -> None:
    args = parse(__doc__)
    cfgs = [
        composed.compose_config(
            args.sizes, [*args.overrides, f"algo.lmbda={k / NUM_RUNS}", f"seed={k % 3}"]
        )
        for k in range(NUM_RUNS)
    ]
    dataset = composed.dataset(args.sizes)
    placement = placement_of(cfgs[0], NUM_RUNS)
    engine = engine_of(cfgs, dataset)  # not in force, where torch has a thread less to give
    with placement.in_force():
        figures = timing.steady_rate(engine.advance, args.seconds)
    figures["value"] *= NUM_RUNS
    timing.report(**figures, peak_mib=timing.peak_mib())


if __name__ == "__main__":
    main()
