"""Films an agent: one episode to a GIF or MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from bcq_exp.data.environments import EnvMaker, check_ends
from bcq_exp.errors import UserError
from bcq_exp.training.evaluation import Agent


def film(agent: Agent, make_env: EnvMaker, path: Path, seed: int) -> int:
    """Write the episode that starts from ``seed`` to ``path`` (.gif or .mp4); returns its frames.

    Raises:
        UserError: if the environment cannot draw itself here, nothing ends its episodes, or the
            file cannot be written.
    """
    import imageio.v3 as iio

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    env = make_env(render_mode="rgb_array")
    fps = env.metadata.get("render_fps", 30)
    try:
        check_ends(env)
        frames = np.stack(list(_frames(agent, env, seed)))
    except UserError:
        raise
    except Exception as error:  # drawing needs what a machine may lack (a display, EGL, pygame)
        raise UserError(
            f"video={path}: the environment cannot be drawn here ({type(error).__name__}: {error})"
        ) from error
    finally:
        env.close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        gif, mp4 = {"duration": 1000 / fps, "loop": 0}, {"fps": fps, "macro_block_size": 2}
        iio.imwrite(path, frames, **(gif if path.suffix == ".gif" else mp4))
    except OSError as error:
        raise UserError(f"video={path}: cannot be written ({error})") from error
    return len(frames)


def _frames(agent: Agent, env: gym.Env, seed: int) -> Iterator[np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    obs, _ = env.reset(seed=seed)
    running = True
    while running:
        yield np.asarray(env.render())
        act = agent.act(np.asarray(obs)[None], generator)[0]
        obs, _, terminated, truncated, _ = env.step(act)
        running = not (terminated or truncated)
