"""Films an episode that was played, to a GIF or MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np

from bcq_exp.data.environments import EnvMaker
from bcq_exp.errors import UserError, first_line


def film(actions: np.ndarray, make_env: EnvMaker, path: Path, seed: int) -> int:
    """Play an episode again and write it to ``path`` (.gif or .mp4); returns its frames.

    The actions are replayed, because an agent that samples acts otherwise alone than it did beside
    the other episodes of its evaluation.

    Args:
        actions: the environment's (T, A).
        seed: that the episode started from.

    Raises:
        UserError: if the environment cannot draw itself here, or the file cannot be written.
    """
    import imageio.v3 as iio

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    env = make_env(render_mode="rgb_array")
    fps = env.metadata.get("render_fps", 30)
    try:
        frames = np.stack(list(_frames(actions, env, seed)))
    except Exception as error:  # drawing needs what a machine may lack (a display, EGL, pygame)
        raise UserError(
            f"video={path}: the environment cannot be drawn here ({type(error).__name__}: "
            f"{first_line(error)}){_hint(env)}"
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


def _hint(env: gym.Env) -> str:
    is_mujoco = any("mujoco" in kind.__module__ for kind in type(env.unwrapped).__mro__)
    if not is_mujoco or "MUJOCO_GL" in os.environ:
        return ""
    return "; without a display, set the environment variable MUJOCO_GL=egl or MUJOCO_GL=osmesa"


def _frames(actions: np.ndarray, env: gym.Env, seed: int) -> Iterator[np.ndarray]:
    env.reset(seed=seed)
    for action in actions:
        yield np.asarray(env.render())
        env.step(action)
