"""Times our training step: the engine that a run of this configuration would get.

.venv/bin/python -m tests.bench.ours_step --size paper [--eager] trainer.precision=fp32

``--eager`` runs every step anew in PyTorch, for what recording it gains.
"""

from __future__ import annotations

import torch

from bcq_exp.training import build
from bcq_exp.training.capture import eager
from bcq_exp.training.memory import keep_freed_memory
from tests.bench import composed, timing
from tests.bench.arguments import parse


def main() -> None:
    args = parse(__doc__, flags=("eager",))
    if args.eager:
        build.CAPTURES.update(dict.fromkeys(build.CAPTURES, eager))
    cfg = composed.compose_config(args.sizes, args.overrides)
    dataset = composed.dataset(args.sizes)
    keep_freed_memory()
    with build.threads([cfg]), build.build_precision(cfg).in_force():
        engine = build.build_engine([cfg], dataset, build.build_normalizer(cfg, dataset, None))
        before = timing.peak_mib()
        figures = timing.steady_rate(engine.advance, args.seconds)
        threads = torch.get_num_threads()
    timing.report(
        **figures,
        threads=threads,
        peak_mib=timing.peak_mib(),
        growth_mib=timing.peak_mib() - before,
        engine=type(engine).__name__,
        **_gpu_memory(),
    )


def _gpu_memory() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    return {"gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20}


if __name__ == "__main__":
    main()
