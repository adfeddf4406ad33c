"""How well bcq_exp.training.cost predicts the time of steps.

.venv/bin/python -m tests.bench.cost [--runs 1] [--seconds 1.5] [overrides of every configuration]

Every configuration is trained for a moment on random data of the sizes that the model assumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete
from omegaconf import DictConfig

from bcq_exp.data.datasets import Dataset
from bcq_exp.data.spaces import ActionSpace
from bcq_exp.data.transitions import Transitions
from bcq_exp.training.cost import cost_of, unknown_spaces
from tests.bench import timing
from tests.commands import compose, engine_of, placement_of, spec_of

ROWS = 10_000
CONFIGS = (
    (),
    ("algo.num_sampled_action=100",),
    ("trainer.batch_size=1000",),
    ("networks=paper",),
    ("networks=paper", "trainer.precision=bf16"),
    ("networks=tianshou",),
    ("networks=tianshou", "trainer.precision=bf16"),
    ("algo=bc",),
    ("algo=bc", "networks=tianshou"),
    ("algo=vae_bc", "networks=tianshou"),
    ("algo=td3_bc", "networks=tianshou"),
    ("algo=dqn",),
    ("algo=ddpg",),
    ("algo=ddpg", "networks=paper"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="of a cohort, trained together")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each configuration")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    ratios = []
    print("| configuration | kernels | Mflop | 1e6 numbers | predicted | measured | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for overrides in CONFIGS:
        cfgs = [
            compose(*overrides, "trainer.num_threads=1", *args.overrides, f"seed={seed}")
            for seed in range(args.runs)
        ]
        spec = spec_of(cfgs[0])
        cost = cost_of(spec)
        data = random_data(*unknown_spaces(spec.algorithm))
        predicted = cost.step_seconds(args.runs)
        measured = 1 / steps_per_second(cfgs, data, args.seconds)
        ratios.append(predicted / measured)
        print(
            f"| {' '.join(overrides) or 'bcq'} | {cost.step.kernels:.0f} | "
            f"{cost.step.flops / 1e6:.0f} | {cost.step.numbers / 1e6:.2f} | "
            f"{1e3 * predicted:.2f} ms | {1e3 * measured:.2f} ms | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"ratios {min(ratios):.2f} to {max(ratios):.2f}, median {np.median(ratios):.2f}")


def steps_per_second(cfgs: Sequence[DictConfig], data: Dataset, seconds: float) -> float:
    """Of runs trained together, once their steps are compiled."""
    placement = placement_of(cfgs[0], len(cfgs))
    with placement.in_force():
        engine = engine_of(cfgs, data)
        return timing.steady_rate(engine.advance, seconds)["value"]


def random_data(observation_space: Box, action_space: ActionSpace) -> Dataset:
    """Transitions of nothing, of these sizes."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((2, ROWS, *observation_space.shape), np.float32)
    if isinstance(action_space, Discrete):
        act = rng.integers(action_space.n, size=(ROWS, 1)).astype(np.float32)
    else:
        act = rng.uniform(-1, 1, (ROWS, *action_space.shape)).astype(np.float32)
    flags = np.zeros(ROWS, bool)
    return Dataset(
        id="random",
        observation_space=observation_space,
        action_space=action_space,
        env_spec=None,
        reference_scores=None,
        transitions=Transitions(
            obs=obs[0],
            act=act,
            rew=rng.standard_normal(ROWS),
            terminated=flags,
            truncated=flags,
            obs_next=obs[1],
        ),
        content_hash="",
        episode_returns=np.zeros(1),
        episode_lengths=np.array([ROWS]),
        episode_rows=np.array([ROWS]),
    )


if __name__ == "__main__":
    main()
