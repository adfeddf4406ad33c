"""Times acting at the paper's sizes: episodes of Hopper-v5, and one call on many observations.

.venv/bin/python -m tests.bench.acting {episodes,episodes-loop,forward,forward-loop}

The policy is untrained, its weights fixed by the seed. So that every contestant takes the same
steps, episodes neither end in a fall nor before EPISODE_STEPS.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQPolicy
from bcq_exp.training.evaluation import Agent, Evaluator
from tests.bench import composed, timing
from tests.bench.arguments import parse
from tests.commands import algorithm_of, placement_of

NUM_EPISODES = 10
EPISODE_STEPS = 200
NUM_OBSERVATIONS = 256
SEED = 1000


def make_env() -> gym.Env:
    """Hopper-v5 with episodes of equal length."""
    return gym.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=EPISODE_STEPS)


@torch.no_grad()
def act_for_one(policy: BCQPolicy, obs: np.ndarray) -> np.ndarray:
    """The action for one observation (O,), as the authors' ``select_action`` takes it."""
    rows = torch.FloatTensor(obs.reshape(1, -1)).repeat(policy.forward_sampled_times, 1)
    act = policy.actor_perturbation(rows, policy.vae.decode(rows))  # type: ignore[operator]
    return act[policy.critic(rows, act).argmax(0)].numpy().flatten()


def episodes(policy: BCQPolicy) -> float:
    """Seconds an environment step with our evaluator, which makes its environments."""
    evaluator = Evaluator(make_env, NUM_EPISODES, SEED)
    start = time.perf_counter()
    results = evaluator.evaluate(Agent(policy))
    seconds = time.perf_counter() - start
    return seconds / float(results.lengths.sum())


def episodes_loop(policy: BCQPolicy) -> float:
    """Seconds an environment step with one environment and one state at a time."""
    env, steps = make_env(), 0
    start = time.perf_counter()
    for index in range(NUM_EPISODES):
        obs, _ = env.reset(seed=SEED + index)
        done = False
        while not done:
            obs, _, terminated, truncated, _ = env.step(act_for_one(policy, obs))
            done = terminated or truncated
            steps += 1
    return (time.perf_counter() - start) / steps


def forward(policy: BCQPolicy) -> float:
    """Seconds an observation of one call on NUM_OBSERVATIONS."""
    obs = _observations()
    return timing.best_seconds(lambda: policy(Batch(obs=obs)), 3.0) / len(obs)


def forward_loop(policy: BCQPolicy) -> float:
    """Seconds an observation where each row is acted for alone."""
    obs = _observations()
    return timing.best_seconds(lambda: [act_for_one(policy, row) for row in obs], 3.0) / len(obs)


def _observations() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUM_OBSERVATIONS, 11), dtype=np.float32)


MODES: dict[str, Callable[[BCQPolicy], float]] = {
    "episodes": episodes,
    "episodes-loop": episodes_loop,
    "forward": forward,
    "forward-loop": forward_loop,
}


def main() -> None:
    args = parse(__doc__, modes=tuple(MODES))
    cfg = composed.compose_config(args.sizes, args.overrides)
    env = make_env()
    placement = placement_of(cfg)
    obs_space, act_space = env.observation_space, env.action_space
    assert isinstance(obs_space, Box)
    policy = algorithm_of(cfg, obs_space, act_space).policy
    torch.manual_seed(0)
    act_for_one(policy, env.observation_space.sample())
    if args.mode.endswith("loop"):
        seconds = MODES[args.mode](policy)
    else:  # as a run acts
        with placement.in_force():
            seconds = MODES[args.mode](policy)
    timing.report(value=1e6 * seconds, peak_mib=timing.peak_mib())


if __name__ == "__main__":
    main()
