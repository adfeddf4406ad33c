"""Times our training step: the engine that a run of this configuration would get.

.venv/bin/python -m tests.bench.ours_step --size paper trainer.precision=fp32 trainer.engine=eager
"""

from __future__ import annotations

import torch

from bcq_exp.training import build
from tests.bench import composed, timing
from tests.bench.arguments import parse
from tests.commands import engine_of, placement_of


def main() -> None:
    args = parse(__doc__)
    cfg = composed.compose_config(args.sizes, args.overrides)
    dataset = composed.dataset(args.sizes)
    placement = placement_of(cfg)
    with placement.in_force():
        normalizer = build.build_normalizer(cfg.trainer.normalize_obs, dataset, None)
        engine = engine_of([cfg], dataset, normalizer)
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
