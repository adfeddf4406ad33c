"""Hydra's callback that refuses a run or a sweep before anything is written."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from bcq_exp import internals
from bcq_exp.cli.explain import errors_pass, explained
from bcq_exp.cli.schemas import conf_folder
from bcq_exp.config.checking import check, check_folders
from bcq_exp.config.containers import unresolved
from bcq_exp.config.overrides import key_and_value
from bcq_exp.errors import UserError

OPTIONAL = ("online", "experiment", "sweep")  # groups without a choice by default


class CheckCallback(Callback):
    """``hydra.callbacks.check`` of ``bcq_exp train``."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check a single run; with ``resume=restart`` set the earlier one aside.

        Raises:
            PastHydra: with the error.
        """
        with errors_pass():
            from bcq_exp.training import start

            _check_groups(config)
            if sweep := config.hydra.runtime.choices.get("sweep"):
                raise UserError(f"sweep={sweep}: needs -m")
            if config.hydra.launcher.get("plan_only"):
                raise UserError("--plan: describes a sweep, and this is a single run; add -m")
            _check_is_read(config, is_sweep=False)
            _check_sweeper(config)
            folder = check_folders(config, is_sweep=False)
            names: Any = [key for key in config if key != "hydra"]  # a mistaken one may be a number
            own = OmegaConf.masked_copy(config, names)
            check(own)
            start.make_room(start.plan_run(own, folder))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check a sweep and place its runs.

        Raises:
            PastHydra: with the error.
        """
        with errors_pass():
            from bcq_exp.sweep import plan, plugins

            def composed(overrides: list[str]) -> DictConfig:
                with explained(overrides, is_sweep=True):
                    name = config.hydra.job.config_name
                    cfg = compose(name, overrides, return_hydra_config=True)
                    _check_groups(cfg)
                    return cfg

            plugins.register()
            given = config.hydra.overrides
            _check_is_read(config, is_sweep=True)
            words = [*unresolved(given.hydra), *unresolved(given.task)]
            asked = [o for o in words if not o.startswith("hydra.mode=")]
            placed, fixed = plan.plan_sweep(asked, composed)
            given.hydra.extend(placed)
            internals.set_values(OverridesParser.create().parse_overrides(placed), config)
            if fixed is not None:  # which the sweeper reads
                with open_dict(config):
                    config.update({key: fixed[key] for key in fixed if key != "hydra"})


def _check_is_read(config: DictConfig, *, is_sweep: bool) -> None:
    """Refuse overrides of Hydra's keys that a sweep, or a single run, does not read.

    Raises:
        UserError: with the first of them.
    """
    for override in unresolved(config.hydra.overrides.hydra):
        key, _ = key_and_value(override)
        if is_sweep and key == "hydra.run.dir":
            raise UserError(f"{override}: only used by a single run; set hydra.sweep.dir")
        if not is_sweep and re.match(r"hydra[./](launcher|sweep|sweeper)\b", key):
            remedy = ", or set hydra.run.dir" if key == "hydra.sweep.dir" else ""
            raise UserError(f"{override}: only used by a sweep; add -m{remedy}")


def _check_sweeper(config: DictConfig) -> None:
    """Refuse a single run if a file chooses a sweeper or lists swept keys.

    Raises:
        UserError: if one does.
    """
    sweeper = config.hydra.runtime.choices.get("hydra/sweeper")
    if sweeper not in (None, "basic"):
        raise UserError(f"hydra/sweeper={sweeper}: only used by a sweep; add -m")
    if params := config.hydra.sweeper.get("params"):
        raise UserError(
            f"hydra.sweeper.params: sweeps {', '.join(map(str, params))}, and this is a single "
            "run; add -m"
        )


def _check_groups(config: DictConfig) -> None:
    """Refuse nodes that are chosen or removed in a wrong way, and choices that exclude others.

    Raises:
        UserError: with the right override.
    """
    choices = config.hydra.runtime.choices
    for override in unresolved(config.hydra.overrides.task):
        if override.startswith("sweep=["):  # of keys in several files, only the last would count
            raise UserError(f"{override}: give one sweep=, and launch the other under another name")
    if (online := choices.get("online")) and (dataset := choices.get("dataset")):
        raise UserError(f"dataset={dataset}: leave it out; online={online} collects its own data")
    if OmegaConf.is_dict(config.get("online")) and not choices.get("online"):
        raise UserError("online: choose online=explore, in a file with `override /online: explore`")
    for override in unresolved(config.hydra.overrides.task):
        node = override.lstrip("~").partition("=")[0]
        group, _, name = node.partition("@")
        if override.startswith("~") and group not in OPTIONAL and (conf_folder() / group).is_dir():
            raise UserError(f"{name or node}: must not be removed")
    for group in choices:
        node = group.rpartition("@")[2]
        if "@" in group and not OmegaConf.is_dict(value := config.get(node)):
            raise UserError(f"{node}={value}: choose it with {group}={value}")
