"""Register launchers and sweepers with Hydra."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

NAMESPACE, HOME = "hydra_plugins", "hydra_plugins.bcq_exp"
NAMESAKES = {  # choices that Hydra's plugins have too
    "hydra/launcher": ("joblib", "ray", "submitit_local", "submitit_slurm"),
    "hydra/sweeper": ("optuna",),
    "hydra/sweeper/sampler": ("cmaes", "gp", "grid", "nsgaii", "qmc", "random", "tpe"),
}


def register() -> None:
    """Register the plugins as ``hydra_plugins.bcq_exp.*``, which Hydra requires."""
    plugins = Plugins.instance()  # reloads Hydra's plugins, so import these afterwards
    from bcq_exp.sweep.grid import GridSweeper
    from bcq_exp.sweep.halving import HalvingSweeper
    from bcq_exp.sweep.launcher import CohortLauncher
    from bcq_exp.sweep.search import OptunaSweeper
    from bcq_exp.sweep.worker_launchers import (
        JoblibLauncher,
        LocalLauncher,
        RayLauncher,
        SlurmLauncher,
    )

    try:
        namespace = importlib.import_module(NAMESPACE)
    except ImportError:  # no other plugin is installed
        namespace = sys.modules[NAMESPACE] = ModuleType(NAMESPACE)
    home = sys.modules[HOME] = ModuleType(HOME)
    vars(namespace)["bcq_exp"] = home
    launchers = (CohortLauncher, JoblibLauncher, RayLauncher, SlurmLauncher, LocalLauncher)
    for plugin in (*launchers, GridSweeper, HalvingSweeper, OptunaSweeper):
        plugin.__module__ = HOME
        vars(home)[plugin.__name__] = plugin
        plugins.register(plugin)


def remove_namesakes() -> None:
    """Remove installed plugins' schemas, which Hydra would apply to conf/ files of these names."""
    Plugins.instance()  # loads them
    for group, names in NAMESAKES.items():
        node = ConfigStore.instance().repo
        for part in group.split("/"):
            node = node.get(part, {})
        for name in names:
            node.pop(f"{name}.yaml", None)
