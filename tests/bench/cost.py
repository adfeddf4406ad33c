"""How well the cost model (bcq_exp.training.cost) tells what runs take: python -m tests.bench.cost

Every configuration is trained for a moment at one thread on random data of the sizes that the model
takes tasks to have, several in a stack where the model has to know of stacking.
"""

from __future__ import annotations

import numpy as np

from bcq_exp.paper.estimate import random_data, tried
from bcq_exp.training.cost import cost_of
from tests.commands import compose

CONFIGS = (  # runs in a stack, overrides
    (1, ()),
    (8, ()),
    (1, ("algo.num_sampled_action=100",)),
    (1, ("trainer.batch_size=1000",)),
    (1, ("networks=paper",)),
    (1, ("networks=paper", "trainer.precision=bf16")),
    (1, ("networks=tianshou",)),
    (1, ("algo=bc",)),
    (8, ("algo=bc", "networks=small")),
    (1, ("algo=td3_bc", "networks=tianshou")),
    (1, ("algo=dqn",)),
    (1, ("algo=ddpg", "networks=paper")),
)


def main() -> None:
    data = random_data("HalfCheetah-v5")
    told, taken = [], []
    print("| stacked | configuration | a run's step, told | taken | ratio | acting, told | taken |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for num_runs, overrides in CONFIGS:
        given = (*overrides, "trainer.num_threads=1")
        cfgs = [compose(*given, f"seed={k}") for k in range(num_runs)]
        cost = cost_of(cfgs[0])
        measured = tried(cfgs, data, at_a_time=1)
        told.append(cost.step_seconds(num_runs) / num_runs)
        taken.append(1 / measured.rate)
        print(
            f"| {num_runs} | {' '.join(overrides) or 'bcq'} | {1e3 * told[-1]:.2f} ms | "
            f"{1e3 * taken[-1]:.2f} ms | {told[-1] / taken[-1]:.2f} | "
            f"{1e3 * cost.evaluation_seconds() / cost.episode_steps:.2f} ms | "
            f"{1e3 * measured.acting:.2f} ms |",
            flush=True,
        )
    ranks = [np.argsort(np.argsort(values)) for values in (told, taken)]
    ratios = np.array(told) / np.array(taken)
    print(
        f"rank correlation {np.corrcoef(*ranks)[0, 1]:.2f}, told/taken {ratios.min():.2f} to "
        f"{ratios.max():.2f}, geometric mean {np.exp(np.log(ratios).mean()):.2f}"
    )


if __name__ == "__main__":
    main()
