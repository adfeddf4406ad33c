"""The provenance of a run: versions, commit, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BY_COMMAND = "command-line"  # Hydra's name for the provider of --config-dir
PACKAGES = (
    "bcq_exp",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",  # trajectories differ between its versions
    "jax",
    "minari",
    "hydra-core",
    "omegaconf",
    "wandb",
)


@cache
def versions() -> dict[str, str | None]:
    """Return versions of Python and relevant packages; None for a package not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache  # the commit of the imported code, read once
def git_commit() -> str | None:
    """Return the code's commit, ``-dirty`` if files differ; None outside a checkout."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed inside another project's checkout
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
    """Return the command line that trains with these words, quoted for a shell."""
    return f"bcq_exp train {shlex.join(words)}".strip()


def own_configs(hydra: Any) -> list[str]:
    """Return the options by which Hydra found the user's own configurations."""
    words = [f"--config-name={name}"] if (name := hydra.job.config_name) != "config" else []
    folders = [each.path for each in hydra.runtime.config_sources if each.provider == BY_COMMAND]
    return words + [f"--config-dir={folder}" for folder in folders]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
