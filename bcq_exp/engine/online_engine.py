"""Online learning: each step of the environment is followed by a gradient step."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine
from bcq_exp.engine.executors import ExecutorFactory
from bcq_exp.engine.explorer import Explorer, Moment
from bcq_exp.engine.stream import GrowingStream


class OnlineEngine:
    """One run that collects its own data (an :class:`~bcq_exp.engine.engine.Engine`).

    Its steps are those of the environment; the first ``start_steps`` only collect and report no
    metrics. A checkpoint holds all collected data.

    Args:
        run: the algorithm, in its dtype and on its device.
        explorer: the environment.
        capacity: the total number of steps.
        start_steps: the explorer's random steps.
        stream: the random numbers of gradient steps.
        executor, eager_steps: as of :class:`CohortEngine`.
    """

    num_runs = 1

    def __init__(
        self,
        run: OfflineAlgorithm,
        explorer: Explorer,
        capacity: int,
        start_steps: int,
        stream: GrowingStream,
        executor: ExecutorFactory,
        eager_steps: int = 0,
    ) -> None:
        param = next(run.parameters())
        self._run = run
        self._explorer = explorer
        self._start_steps = start_steps
        self._generator = torch.Generator()  # for a policy that samples: seeded at every step
        spaces = run.policy.observation_space, run.policy.action_space
        obs_dim, act_dim = (space.shape[0] for space in spaces)
        self._collected = np.zeros(capacity, step_type(*spaces))
        self._table = TransitionTable.empty(capacity, obs_dim, act_dim, param.dtype, param.device)
        self._learner = CohortEngine(
            [run], self._table, [stream], executor, eager_steps, buffered_steps=1
        )
        self.statistics, self.losses = self._learner.statistics, self._learner.losses
        self._nothing = torch.full((1, 1, len(self.statistics)), nan, dtype=torch.float64)
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    def advance(self, num_steps: int) -> Tensor:
        taken = []
        for _ in range(num_steps):
            self._collected[self._step] = self._explorer.step(self._step, self._behave)
            self._copy_to_table(self._step, self._step + 1)
            if self._step >= self._start_steps:
                taken.append(self._learner.take_steps(1))
            self._step += 1
        metrics = [self._nothing.expand(1, num_steps - len(taken), -1)]
        if taken:
            metrics.append(self._learner.as_metrics(torch.cat(taken)))
        return torch.cat(metrics, 1)

    def algorithm(self, run: int) -> OfflineAlgorithm:
        return self._learner.algorithm(0)

    def state_dict(self, run: int) -> dict[str, Any]:
        learner, steps = self._learner.state_dict(0), self._collected[: self._step]
        return {
            "step": self._step,
            "algorithm": learner["algorithm"],
            "gradient_steps": learner["step"],
            "collected": {n: torch.from_numpy(steps[n].copy()) for n in Moment._fields},
            "episode": [self._explorer.episode, self._explorer.episode_start],
        }

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._learner.load_state_dict(
            0, {"algorithm": state["algorithm"], "step": state["gradient_steps"]}
        )
        for name, values in state["collected"].items():
            self._collected[name][: len(values)] = values.numpy()
        self._copy_to_table(0, self._step)
        episode, start = state["episode"]
        self._explorer.resume(episode, start, self._collected["act"][start : self._step])

    def _behave(self, obs: np.ndarray, seed: int) -> np.ndarray:
        self._generator.manual_seed(seed)
        return self._run.policy.map_action(self._learner.act(obs[None], self._generator))[0]

    def _copy_to_table(self, first: int, last: int) -> None:
        """Copy the steps from ``first`` up to ``last`` to the table, in the networks' units."""
        steps = self._collected[first:last]
        act = self._run.policy.map_action_inverse(steps["act"])
        self._table.put(
            first, steps["obs"], steps["obs_next"], act, steps["rew"], steps["terminated"]
        )


def step_type(observation_space: Box, action_space: Box) -> np.dtype[np.void]:
    """The type of a collected step, a :class:`Moment` with the numbers of a data set.

    Actions keep the type of their space, because a run that resumes replays the present episode,
    and a rounded action would change it.
    """
    return np.dtype(
        [
            ("obs", np.float32, observation_space.shape),
            ("act", action_space.dtype, action_space.shape),
            ("rew", np.float32),
            ("terminated", bool),
            ("truncated", bool),
            ("obs_next", np.float32, observation_space.shape),
        ]
    )
