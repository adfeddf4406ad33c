"""Makes our launcher and sweepers known to Hydra."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from hydra.core.plugins import Plugins

NAMESPACE, HOME = "hydra_plugins", "hydra_plugins.bcq_exp"


def register() -> None:
    """Let Hydra instantiate the plugins as ``hydra_plugins.bcq_exp.*``: no other home may be."""
    plugins = Plugins.instance()  # loads Hydra's own again, so ours have to be imported after it
    from bcq_exp.sweep.grid import GridSweeper
    from bcq_exp.sweep.halving import HalvingSweeper
    from bcq_exp.sweep.launcher import CohortLauncher
    from bcq_exp.sweep.search import OptunaSweeper

    try:
        namespace = importlib.import_module(NAMESPACE)
    except ImportError:  # no other plugin is installed
        namespace = sys.modules[NAMESPACE] = ModuleType(NAMESPACE)
    home = sys.modules[HOME] = ModuleType(HOME)
    vars(namespace)["bcq_exp"] = home
    for plugin in (CohortLauncher, GridSweeper, HalvingSweeper, OptunaSweeper):
        plugin.__module__ = HOME
        vars(home)[plugin.__name__] = plugin
        plugins.register(plugin)
