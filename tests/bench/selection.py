"""Fitted Q evaluation of many policies at once, beside one after the other.

.venv/bin/python -m tests.bench.selection [--policies 27] [--steps 2000] [--turns 5]

Policies are made up; a critic's step is the same whatever they do. What is timed is all gradient
steps of an evaluation, on the built-in data, recording included; in turns, the median.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.placement import place
from bcq_exp.selection.candidates import Evidence
from bcq_exp.selection.critics import Units, drawn_episodes, stacked_critics


@dataclass(frozen=True)
class Way:
    """So many policies at once, each evaluated by so many critics.

    The rest is what it has to say of its :func:`~bcq_exp.engine.placement.place`.
    """

    policies: int
    members: int
    engine: str = "auto"
    batch_size: int = FQESettings.batch_size
    device: str = "cpu"
    num_threads: int | None = None
    precision: str = "fp32"

    def seconds(self, evidence: Evidence, num_steps: int) -> float:
        """Of an evaluation of its policies."""
        transitions, rows = evidence.dataset.transitions, evidence.episode_rows
        settings = FQESettings(num_members=self.members, batch_size=self.batch_size)
        units = Units.of(transitions, evidence.dataset.action_space, settings)
        placement = place(self, [settings.hidden_sizes], self.policies * self.members)
        drawn = drawn_episodes(settings, len(rows))
        shape = (self.policies, *transitions.act.shape)
        acts = np.random.default_rng(0).uniform(-2, 2, shape).astype(np.float32)
        with placement.in_force():
            critics = stacked_critics(
                transitions, rows, drawn, acts, units, settings, placement, is_discrete=False
            )
            started = time.perf_counter()
            critics.advance(num_steps)
            return time.perf_counter() - started


def main() -> None:
    """Print policies' gradient steps a second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policies", type=int, default=27)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    evidence = Evidence(load_pendulum(holdout=0.2))
    for members in (1, FQESettings().num_members):
        ways = {
            "all at once": Way(options.policies, members),
            "a policy at a time": Way(1, members),
            "in plain PyTorch": Way(1, members, engine="eager"),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.turns):
            for name, way in ways.items():
                taken = way.seconds(evidence, options.steps)
                rates[name].append(options.steps * way.policies / taken)
        best = median(rates["all at once"])
        print(f"{members} critics a policy")
        for name, found in rates.items():
            print(f"  {name:20} {median(found):8.0f} policy-steps/s   {best / median(found):5.2f}")


if __name__ == "__main__":
    main()
