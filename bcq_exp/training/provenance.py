"""Where a run came from: versions, commit, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BY_COMMAND = "command-line"  # Hydra's word for the provider of --config-dir
PACKAGES = (
    "bcq_exp",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",  # trajectories change between its versions
    "jax",
    "minari",
    "hydra-core",
    "omegaconf",
    "wandb",
)


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages a result depends on; None for one not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache  # of the code as it was imported; a cohort of runs asks once
def git_commit() -> str | None:
    """The commit of the code that runs, ``-dirty`` where files differ; None outside a checkout."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed somewhere below another project's checkout
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command(words: Sequence[str]) -> str:
    """The command line that trains with these words, as a shell takes it."""
    return f"bcq_exp train {shlex.join(words)}".strip()


def own_configs(hydra: Any) -> list[str]:
    """The words by which Hydra found a user's own configurations, by its own configuration."""
    words = [f"--config-name={name}"] if (name := hydra.job.config_name) != "config" else []
    folders = [each.path for each in hydra.runtime.config_sources if each.provider == BY_COMMAND]
    return words + [f"--config-dir={folder}" for folder in folders]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
