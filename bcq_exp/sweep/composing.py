"""Composing a sweep's runs: what they have in common once, then each one's values.

Hydra reads and merges every file again for each run, which takes a tenth of a second. Files are
chosen by the choices of groups alone; values come after them. So each combination of choices is
composed by Hydra once, and a run is a copy of that with its values, set by Hydra's own function.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bcq_exp.config.plain import refers


class SweepComposer:
    """Composes the runs of one sweep, each equal to what Hydra composes for it alone.

    Args:
        loader: Hydra's, with the sweep's search path.
        sweep: the configuration of the sweep itself.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        self._loader = loader
        self._sweep = sweep
        self._composed: dict[tuple[str, ...], _Common] = {}
        self._read: dict[str, tuple[Override, bool]] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration, with its ``hydra`` node, of the run with these overrides.

        Raises:
            HydraException: what Hydra objects to.
        """
        cfg = self._with_values(overrides, whole=True)
        if cfg is None:  # in Hydra's own words
            return self._by_hydra(overrides)
        cfg.hydra.overrides.task = list(overrides)
        form = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            [self._parsed(o)[0] for o in overrides], form.exclude_keys, form.item_sep, form.kv_sep
        )
        return cfg

    def own(self, overrides: Sequence[str]) -> DictConfig | None:
        """The run's own configuration as :func:`parted` has it, in a third of the time.

        ``None`` where a value refers to others, or Hydra objects: then the whole is to be composed.
        """
        if any("${" in override for override in overrides):
            return None
        return self._with_values(overrides, whole=False)

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._sweep, list(overrides))

    def _with_values(self, overrides: Sequence[str], *, whole: bool) -> DictConfig | None:
        """A copy of what the choices compose, with the values; ``None`` if Hydra might differ."""
        try:
            given = [self._parsed(override) for override in overrides]
            is_common = not any(o.is_hydra_override() or o.is_sweep_override() for o, _ in given)
            if not is_common or self._sweep.hydra.searchpath:  # it may bring groups not known here
                return None
            choices = tuple(o.input_line or "" for o, is_choice in given if is_choice)
            if choices not in self._composed:
                self._composed[choices] = _Common.of(self._by_hydra(choices))
            common = self._composed[choices]
            frozen = common.whole if whole else common.own
            if frozen is None:
                return None
            cfg = pickle.loads(frozen)  # several times faster than a deep copy
            values = [o for o, is_choice in given if not is_choice]
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except (HydraException, OmegaConfBaseException):
            return None
        return cfg

    def _parsed(self, override: str) -> tuple[Override, bool]:
        """An override, and whether it is a choice: bears on which files are read."""
        if override not in self._read:
            one = OverridesParser.create().parse_override(override)
            repository: Any = self._loader.repository  # type: ignore[attr-defined]
            is_group = repository.group_exists(one.key_or_group)
            self._read[override] = one, is_group and not isinstance(one.value(), dict)
        return self._read[override]


@dataclass(frozen=True)
class _Common:
    """What runs of the same choices start from: the whole, and without its ``hydra`` node."""

    whole: bytes
    own: bytes | None

    @classmethod
    def of(cls, cfg: DictConfig) -> _Common:
        whole = pickle.dumps(cfg)
        return cls(whole, None if refers(cfg, but="hydra") else pickle.dumps(parted(cfg)[0]))


def parted(cfg: DictConfig) -> tuple[DictConfig, DictConfig]:
    """A run's own configuration, resolved, and one that has its ``hydra`` node alone.

    They are what was handed in, not copies, where nothing in the first is said in terms of others.
    """
    own = cfg
    if refers(cfg, but="hydra"):
        own = copy.deepcopy(cfg)  # ${hydra:...} may ask cfg
    with read_write(own), open_dict(own):
        node = own.pop("hydra")
    if own is not cfg:
        OmegaConf.resolve(own)
    hydra = OmegaConf.create(flags={"no_deepcopy_set_nodes": True})
    hydra.hydra = node
    return own, hydra
