"""Fitted Q evaluation of many policies at once, beside one policy and one critic at a time.

.venv/bin/python -m tests.bench.selection [--policies 27] [--steps 300]

Policies are made up; a critic's step is the same whatever they do. What is timed is gradient steps
alone, on the built-in data, after what is recorded is; in turns, the median of seven.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

from bcq_exp.config.fqe import FQESettings
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.selection.candidates import Evidence
from bcq_exp.selection.fit import FittedQ

WARM_UP, TURNS = 20, 7


def seconds(fitted: FittedQ, num_steps: int) -> float:
    """Of that many gradient steps of all its critics."""
    started = time.perf_counter()
    fitted.advance(num_steps)
    return time.perf_counter() - started


def main() -> None:
    """Print policies' gradient steps a second, each of five critics'."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policies", type=int, default=27)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    evidence = Evidence.of(load_pendulum(holdout=0.2))
    rng = np.random.default_rng(0)

    def fitted(num_policies: int, num_members: int) -> FittedQ:
        sizes = (len(evidence.dataset.transitions), len(evidence.first_obs))
        acts = [rng.uniform(-2, 2, (num_policies, n, 1)).astype(np.float32) for n in sizes]
        found = FittedQ(evidence, *acts, FQESettings(num_members=num_members))
        found.advance(WARM_UP)
        return found

    members = FQESettings().num_members
    ways = {
        "all at once": (fitted(options.policies, members), options.policies),
        "a policy at a time": (fitted(1, members), 1),
        "a critic at a time": (fitted(1, 1), 1 / members),
    }
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, (way, num_policies) in ways.items():
            rates[name].append(options.steps * num_policies / seconds(way, options.steps))
    best = median(rates["all at once"])
    for name, found in rates.items():
        print(f"{name:20} {median(found):8.0f} policy-steps/s   {best / median(found):5.2f}")


if __name__ == "__main__":
    main()
