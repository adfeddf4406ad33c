"""Running the package: as a command of its own, or composed and trained in this process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.cli import schemas
from bcq_exp.cli.schemas import conf_folder
from bcq_exp.config.checking import check
from bcq_exp.data.task import Task
from bcq_exp.engine.assembly import build_engine
from bcq_exp.engine.engine import Engine
from bcq_exp.engine.placement import Placement, place
from bcq_exp.sweep import plugins
from bcq_exp.sweep.composing import SweepComposer
from bcq_exp.train import train
from bcq_exp.training import build, start
from bcq_exp.training.algorithms import build_algorithm, with_scaling_decided
from bcq_exp.training.evaluation import ObsNormalizer
from bcq_exp.training.spec import RunSpec

CONF = conf_folder()
TINY = (
    "dataset.num_steps=2000",
    "policy.forward_sampled_times=5",
    "algo.num_sampled_action=3",
    "trainer.num_steps=60",
    "trainer.batch_size=16",
    "trainer.log_every=10",
    "trainer.eval_every=30",
    "trainer.eval_episodes=2",
    "trainer.checkpoint_every=15",
    "logger=none",
)
# those of them that any algorithm takes, any data set, and both
ANY_ALGORITHM = tuple(o for o in TINY if not o.startswith(("policy.", "algo.")))
ANY_DATA = tuple(o for o in TINY if not o.startswith("dataset."))
ANY_TASK = tuple(o for o in ANY_ALGORITHM if o in ANY_DATA)
# long enough for steps to be compiled, which takes seconds: for the tests that are about it
COMPILED = (
    *TINY,
    "trainer.num_steps=240",
    "trainer.log_every=40",
    "trainer.eval_every=120",
    "trainer.checkpoint_every=60",
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
    cfg = _composer(config_name).compose(overrides)
    if not with_hydra:
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


def config_loader() -> ConfigLoaderImpl:
    """Hydra's loader of our configuration, with our schemas and plugins, for sweeps."""
    schemas.register()
    plugins.register()
    setup_globals()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


@cache
def _composer(config_name: str) -> SweepComposer:
    """Composes what has the same choices of groups once; tests/sweep/test_composing.py holds that
    it is what Hydra composes."""
    schemas.register()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    whole = loader.load_configuration(config_name, [], RunMode.MULTIRUN)
    return SweepComposer(loader, whole)


def fit(folder: Path, *overrides: str) -> float:
    """Train as the command line does, in this process; returns the objective."""
    cfg = compose(*overrides)
    check(cfg)
    start.make_room(start.plan_run(cfg, folder))
    folder.mkdir(parents=True, exist_ok=True)
    return train(spec_of(cfg, folder))


def spec_of(cfg: DictConfig, folder: Path = Path(), action_space: Any = None) -> RunSpec:
    """The run of a configuration, as it is trained on actions of that space."""
    spec = RunSpec.of(cfg, folder)
    return spec if action_space is None else with_scaling_decided(spec, action_space)


def placement_of(cfg: DictConfig, num_runs: int = 1, **changed: Any) -> Placement:
    """Where a run would be trained, but for what is ``changed``."""
    spec = spec_of(cfg)
    return replace(place(spec.trainer, spec.algorithm.hidden_sizes, num_runs), **changed)


def engine_of(
    cfgs: Sequence[DictConfig],
    task: Task,
    normalizer: ObsNormalizer | None = None,
    **changed: Any,
) -> Engine:
    """The engine that these runs would get, their placement changed."""
    placement = placement_of(cfgs[0], len(cfgs), **changed)
    specs = [spec_of(cfg, action_space=task.action_space) for cfg in cfgs]
    spaces = (task.observation_space, task.action_space)
    algorithms = [build_algorithm(spec.algorithm, *spaces, placement) for spec in specs]
    units = partial(build.for_training, policy=algorithms[0].policy, normalizer=normalizer)
    seeds = [spec.seed for spec in specs]
    return build_engine(algorithms, seeds, task, units, specs[0].trainer, placement)


def algorithm_of(cfg: DictConfig, observation_space: Box, action_space: Any) -> OfflineAlgorithm:
    """The algorithm that a run would get."""
    spec = spec_of(cfg, action_space=action_space).algorithm
    return build_algorithm(spec, observation_space, action_space, placement_of(cfg))


def spoil_engine(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Engine], None]) -> None:
    """Let ``spoil`` change every engine that is built."""

    def build_engine(*args: Any, build_engine: Any = build.build_engine) -> Engine:
        engine = build_engine(*args)
        spoil(engine)
        return engine

    monkeypatch.setattr(build, "build_engine", build_engine)


@contextmanager
def episodes_cut_short() -> Iterator[None]:
    """Episodes of 20 steps in what :func:`fit` evaluates: else it is most of a brief run's time."""
    make_env = Task.make_env
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "make_env", lambda *args, **kw: TimeLimit(make_env(*args, **kw), 20))
        yield


def wait_until(
    condition: Callable[[], Any], process: subprocess.Popen | None = None, seconds: float = 60
) -> None:
    """Wait for a condition, which ``process`` has to live to see."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "it ended before its time"
        assert time.monotonic() < end
        time.sleep(0.01)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
