"""Returns of environments: their scale, and which environments have the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from bcq_exp.data.env_specs import SAME_RETURNS, read_spec
from bcq_exp.data.transitions import DataError

# Mean returns of a random and of an expert policy, by environment name without version.
# MuJoCo: D4RL's published d4rl/infos.py. Pendulum: 100 episodes of each scripted behaviour,
# python -c "from bcq_exp.data.behaviour import *; import gymnasium as gym, numpy as np
# env = gym.make('Pendulum-v1')
# for b in (UniformRandom(env.action_space), swing_up):
#     print(np.mean([sum(e.rewards) for e in collect(env, b, num_steps=20_000, seed=0)]))"
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
    "Pendulum": (-1196.757, -150.479),
}

# Keyword arguments that leave returns as they are, by their beginnings.
_SAME_RETURNS_KWARGS = (
    "render_", "width", "height", "camera_", "default_camera_", "include_", "exclude_",
)  # fmt: skip


def reference_scores(spec: EnvSpec | None) -> tuple[float, float] | None:
    """(random, expert) mean returns known for an environment, else None.

    They are of the environment as it is registered: with other keyword arguments, another step
    limit or a wrapper that changes returns it has none.
    """
    if spec is None or spec.namespace is not None:  # another package's, of the same name
        return None
    known = gym.registry.get(spec.id)
    if known is not None and not same_task(spec, known):
        return None
    return REFERENCE_SCORES.get(spec.name)


def normalized_score(ret: float, scores: tuple[float, float] | None) -> float | None:
    """``ret`` on the scale random = 0, expert = 100; None where the scale is not known."""
    if scores is None:
        return None
    random, expert = scores
    return 100.0 * (ret - random) / (expert - random)


def same_environment(spec: EnvSpec, text: str) -> bool:
    """Whether a specification and another's text are of one task, in any version and wrappers."""
    try:
        other = read_spec(spec.id, text)
    except DataError:
        return False
    names = [(each.namespace, each.name) for each in (spec, other)]
    return names[0] == names[1] and _same_settings(spec, other)


def same_task(one: EnvSpec, other: EnvSpec) -> bool:
    """Whether two specifications of one id have the same returns."""
    return _same_settings(one, other) and _plain_wrappers(one) == _plain_wrappers(other)


def _same_settings(one: EnvSpec, other: EnvSpec) -> bool:
    limits = {one.max_episode_steps, other.max_episode_steps} - {None}
    return len(limits) <= 1 and _plain_kwargs(one) == _plain_kwargs(other)


def _plain_kwargs(spec: EnvSpec) -> str:
    """The keyword arguments that affect returns, as text, in which tuples are lists."""
    kept = {k: v for k, v in spec.kwargs.items() if not k.startswith(_SAME_RETURNS_KWARGS)}
    return json.dumps(kept, sort_keys=True, default=_as_plain)


def _plain_wrappers(spec: EnvSpec) -> str:
    """The wrappers that affect returns, as text."""
    kept = [(w.name, w.kwargs) for w in spec.additional_wrappers if w.name not in SAME_RETURNS]
    return json.dumps(kept, sort_keys=True, default=_as_plain)


def _as_plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def notes(spec: EnvSpec | None) -> Iterator[str]:
    """Report wrappers whose scale depends on what they have seen, in a line each."""
    adaptive = {"NormalizeReward": "rewards", "NormalizeObservation": "observations"}
    for wrapper in () if spec is None else spec.additional_wrappers:
        if what := adaptive.get(wrapper.name):
            yield (
                f"{wrapper.name} of the environment starts again at each evaluation, so {what} are "
                "not on the scale of the recorded ones"
            )
