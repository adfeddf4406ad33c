"""Film an episode as a GIF or MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np

from bcq_exp.data.environments import EnvMaker
from bcq_exp.errors import UserError, first_line


def film(actions: np.ndarray, make_env: EnvMaker, path: Path, seed: int) -> int:
    """Replay an episode and write it to ``path`` (.gif or .mp4); return the number of frames.

    The actions are replayed, because an agent that samples would act differently than in the
    evaluation with other episodes.

    Args:
        actions: the environment's actions (T, A).
        seed: the seed of the episode.

    Raises:
        UserError: if the environment cannot render here, or the file cannot be written.
    """
    import imageio.v3 as iio

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame renders without a display
    env = make_env(render_mode="rgb_array")
    fps = env.metadata.get("render_fps", 30)
    try:
        frames = np.stack(list(_frames(actions, env, seed)))
    except Exception as error:  # rendering may need a display, EGL or pygame
        raise UserError(
            f"video={path}: the environment cannot be drawn here ({type(error).__name__}: "
            f"{first_line(error)}){_hint(env)}"
        ) from error
    finally:
        env.close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        gif, mp4 = {"duration": 1000 / fps, "loop": 0}, {"fps": fps, "macro_block_size": 2}
        options = gif if path.suffix == ".gif" else mp4
        # imageio would try again to write a file when it is collected, and print a traceback
        path.write_bytes(iio.imwrite("<bytes>", frames, extension=path.suffix, **options))
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
