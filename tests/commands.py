"""Running the package: as a command of its own, or composed and trained in this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from bcq_exp import config
from bcq_exp.train import train
from bcq_exp.training import build, launch
from bcq_exp.training.engine import Engine

CONF = Path(config.__file__).parents[1] / "conf"
TINY = (
    "dataset.num_steps=2000",
    "policy.forward_sampled_times=5",
    "algo.num_sampled_action=3",
    "trainer.num_steps=240",
    "trainer.batch_size=16",
    "trainer.log_every=40",
    "trainer.eval_every=120",
    "trainer.eval_episodes=2",
    "trainer.checkpoint_every=60",
    "logger=none",
)


def command(*args: str, module: str = "bcq_exp") -> list[str]:
    return [sys.executable, "-m", module, *args]


def bcq_exp(
    *args: str, cwd: Path, module: str = "bcq_exp", **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """The command, run to its end in ``cwd``."""
    return subprocess.run(
        command(*args, module=module),
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
        **kwargs,
    )


def compose(*overrides: str, config_name: str = "config", with_hydra: bool = False) -> DictConfig:
    """The configuration that the command line composes."""
    from hydra import compose, initialize_config_dir

    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)


def fit(folder: Path, *overrides: str) -> float:
    """Train as the command line does, in this process; returns the objective."""
    cfg = compose(*overrides)
    config.check(cfg)
    launch.check_folder(cfg, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return train(cfg, folder)


def spoil_engine(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Engine], None]) -> None:
    """Let ``spoil`` change every engine that is built."""

    def build_engine(*args: Any, build_engine: Any = build.build_engine) -> Engine:
        engine = build_engine(*args)
        spoil(engine)
        return engine

    monkeypatch.setattr(build, "build_engine", build_engine)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
