"""The built-in data: Pendulum-v1 at four levels of skill, made locally on first use."""

import logging
from typing import TYPE_CHECKING

import gymnasium as gym
from gymnasium.spaces import Box

from bcq_exp.data.behaviour import (
    Behaviour,
    Noisy,
    UniformRandom,
    check_room,
    collect,
    save,
    scripted,
)
from bcq_exp.data.minari_store import data_folder, reserve
from bcq_exp.data.transitions import DataError

if TYPE_CHECKING:
    from minari.data_collector.episode_buffer import EpisodeBuffer

ENV_ID = "Pendulum-v1"
LEVELS = ("expert", "medium", "random", "mixture")
DEFAULT_STEPS, DEFAULT_SEED = 50_000, 0
VERSIONS = {"mixture": 1}  # increment it when a level's recording changes; it is part of the id

_log = logging.getLogger(__name__)


def pendulum_id(level: str, num_steps: int, seed: int) -> str:
    """Return the Minari id; it includes the numbers that are not the defaults.

    Raises:
        DataError: unknown level, or invalid numbers.
    """
    if level not in LEVELS:
        raise DataError(f"pendulum level {level!r} is unknown; allowed are {', '.join(LEVELS)}")
    if num_steps < len(LEVELS) - 1 or seed < 0:
        raise DataError(
            f"pendulum data: num_steps={num_steps} must be at least {len(LEVELS) - 1} and "
            f"seed={seed} at least 0"
        )
    default = (num_steps, seed) == (DEFAULT_STEPS, DEFAULT_SEED)
    numbers = "" if default else f"-{num_steps}steps-seed{seed}"
    return f"bcq_exp/pendulum/{level}{numbers}-v{VERSIONS.get(level, 0)}"


def ensure_pendulum(level: str, num_steps: int, seed: int) -> str:
    """Make the data set if it is missing; return its id.

    Processes that ask at the same time wait for the first one to make it.

    Raises:
        DataError: as :func:`pendulum_id`, or the folder of data sets cannot be written.
    """
    dataset_id = pendulum_id(level, num_steps, seed)
    if data_folder(dataset_id).is_dir():
        return dataset_id
    with reserve(dataset_id, waits=True):
        if not data_folder(dataset_id).is_dir():
            _make(dataset_id, level, num_steps, seed)
    return dataset_id


def _make(dataset_id: str, level: str, num_steps: int, seed: int) -> None:
    _log.info("recording %s: %d steps of %s", dataset_id, num_steps, ENV_ID)
    env = gym.make(ENV_ID)
    episodes = _episodes(env, level, num_steps, seed)
    spaces = env.observation_space, env.action_space
    check_room(*spaces, num_steps, len(episodes))
    save(
        dataset_id,
        episodes,
        (*spaces, env.spec),
        algorithm_name=f"bcq_exp scripted ({level})",
        description=f"{num_steps} steps of {ENV_ID} by bcq_exp's {level} behaviour, seed {seed}",
    )
    env.close()


def _episodes(env: gym.Env, level: str, num_steps: int, seed: int) -> "list[EpisodeBuffer]":
    """Collect episodes of one level; a mixture has thirds of the three others, in order.

    Each part has a seed of its own; that of the first is ``seed`` itself.
    """
    assert isinstance(env.action_space, Box)
    expert = scripted(ENV_ID)
    behaviours: dict[str, Behaviour] = {
        "expert": expert,
        "medium": Noisy(expert, env.action_space, noise_std=0.5, random_action_prob=0.5),
        "random": UniformRandom(env.action_space),
    }
    parts = [*behaviours] if level == "mixture" else [level]
    episodes: list[EpisodeBuffer] = []
    for index, part in enumerate(parts):
        # The shares add up to num_steps, whatever the division leaves over.
        share = num_steps * (index + 1) // len(parts) - num_steps * index // len(parts)
        episodes += collect(env, behaviours[part], num_steps=share, seed=(seed, index))
    return episodes
