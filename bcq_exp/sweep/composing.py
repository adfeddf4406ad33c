"""Compose a sweep's runs: first what they share, then each run's values.

Hydra reads and merges every file again for each run, which takes a tenth of a second. Files depend
only on the choices of groups. Hydra therefore composes each combination of choices once, and a run
is a copy with its values set by Hydra's own function.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bcq_exp import internals
from bcq_exp.config.containers import interpolations


class SweepComposer:
    """Composes the runs of one sweep; each is equal to what Hydra composes.

    Args:
        loader: Hydra's loader, with the sweep's search path.
        sweep: the configuration of the sweep itself.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        self._loader = loader
        self._sweep = sweep
        self._composed: dict[tuple[str, ...], _Common] = {}
        self._read: dict[str, tuple[Override, bool]] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose the configuration, with its ``hydra`` node, of a run.

        Raises:
            HydraException: as Hydra raises it.
        """
        cfg = self._with_values(overrides, whole=True)
        if cfg is None:  # with Hydra's own error
            return self._by_hydra(overrides)
        cfg.hydra.overrides.task = list(overrides)
        form = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = internals.override_dirname(
            [self._parsed(o)[0] for o in overrides], form.exclude_keys, form.item_sep, form.kv_sep
        )
        return cfg

    def own(self, overrides: Sequence[str]) -> DictConfig | None:
        """Compose a run's configuration as of :func:`parted`, in a third of the time.

        ``None`` if a value refers to overridden keys, or Hydra raises an error: use
        :meth:`compose` then.
        """
        if any("${" in override for override in overrides):
            return None
        return self._with_values(overrides, whole=False)

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._sweep, list(overrides))

    def _with_values(self, overrides: Sequence[str], *, whole: bool) -> DictConfig | None:
        """Copy the composed choices and set the values; ``None`` if Hydra might differ."""
        try:
            given = [self._parsed(override) for override in overrides]
            is_common = not any(o.is_hydra_override() or o.is_sweep_override() for o, _ in given)
            if not is_common or self._sweep.hydra.searchpath:  # it may add unknown groups
                return None
            choices = tuple(o.input_line or "" for o, is_choice in given if is_choice)
            if choices not in self._composed:
                self._composed[choices] = _Common.of(self._by_hydra(choices))
            common = self._composed[choices]
            frozen = common.whole if whole else common.own
            values = [o for o, is_choice in given if not is_choice]
            tops = {o.key_or_group.partition(".")[0] for o in values}
            if frozen is None or (not whole and tops & common.referred):
                return None
            cfg = pickle.loads(frozen)  # several times faster than a deep copy
            internals.set_values(values, cfg)
        except (HydraException, OmegaConfBaseException):
            return None
        return cfg

    def _parsed(self, override: str) -> tuple[Override, bool]:
        """Parse an override; also return whether it is a choice, which selects files."""
        if override not in self._read:
            one = OverridesParser.create().parse_override(override)
            is_group = internals.repository(self._loader).group_exists(one.key_or_group)
            self._read[override] = one, is_group and not isinstance(one.value(), dict)
        return self._read[override]


@dataclass(frozen=True)
class _Common:
    """The common configuration of runs with the same choices, pickled.

    Args:
        whole: the configuration.
        own: the resolved configuration without its ``hydra`` node; ``None`` if that may differ by
            run.
        referred: the parts of ``own`` that others refer to.
    """

    whole: bytes
    own: bytes | None
    referred: frozenset[str]

    @classmethod
    def of(cls, cfg: DictConfig) -> _Common:
        whole = pickle.dumps(cfg)
        texts = [text for found in interpolations(cfg).values() for text in found]
        parts = [re.fullmatch(r"\$\{(\w+)[\w.]*\}", text) for text in texts]
        own = None if None in parts else pickle.dumps(parted(cfg)[0])
        return cls(whole, own, frozenset(part[1] for part in parts if part))


def parted(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """Divide a configuration into the run's own, resolved, and one with the ``hydra`` node only.

    Both share nodes with the argument.
    """
    with read_write(cfg), open_dict(cfg):
        for name in interpolations(cfg):
            if OmegaConf.is_config(cfg[name]) and not OmegaConf.is_interpolation(cfg, name):
                OmegaConf.resolve(cfg[name])
            else:
                cfg[name] = cfg[name]
        node = cfg.pop("hydra")
    hydra = OmegaConf.create(flags={"no_deepcopy_set_nodes": True})
    hydra.hydra = node
    return cfg, hydra
