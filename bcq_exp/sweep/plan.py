"""Plan a sweep before it starts: its folder, the swept keys, its runs and their folders."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    Sweep,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bcq_exp.config.checking import check, check_folders, check_plugins
from bcq_exp.config.containers import unresolved
from bcq_exp.config.identity import flattened, report_keys, training_text
from bcq_exp.config.keys import schema_of
from bcq_exp.config.naming import RunNaming
from bcq_exp.config.overrides import key_and_value
from bcq_exp.config.schema import RunConfig
from bcq_exp.errors import Damaged, UserError
from bcq_exp.formatting import listed
from bcq_exp.sweep import state
from bcq_exp.sweep.composing import parted
from bcq_exp.sweep.plugins import HOME
from bcq_exp.sweep.search import STUDY_FILE, has_integers
from bcq_exp.training import start
from bcq_exp.training.folders import is_sweep
from bcq_exp.training.provenance import command, own_configs
from bcq_exp.training.record import RunRecord
from bcq_exp.training.spec import RunSpec

log = logging.getLogger(__name__)

Compose = Callable[[list[str]], DictConfig]


@dataclass(frozen=True)
class Axis:
    """One swept key, with an override for each value, or for both ends of an interval.

    ``given`` is the override as the user typed it. Of an interval, ``is_integer`` is whether it has
    integers only, as Optuna draws them.
    """

    given: str
    key: str
    overrides: tuple[str, ...]
    is_continuous: bool
    is_group: bool
    is_integer: bool = False


def plan_sweep(overrides: Sequence[str], compose: Compose) -> tuple[list[str], DictConfig | None]:
    """Check a sweep and place its runs.

    A run's folder is named by the swept values, so that a sweep launched again, or with more
    values, finds its runs. ``compose`` composes a configuration with its ``hydra`` node.

    Returns the overrides that place the runs, and the configuration with the values that a sweep's
    file fixes and the first of the swept ones; ``None`` if the file fixes none. Our launchers write
    the sweep's files; for others, earlier runs are set aside and the expected ones recorded here.

    Raises:
        UserError: for an unknown key, a value out of range, an empty grid, two runs of one folder,
            or a sweep of that name that must not be continued.
    """
    fixed, axes = split(overrides)
    cfg = compose([*fixed, *(axis.overrides[0] for axis in axes)])
    given = {axis.key for axis in axes} | {key_and_value(override)[0] for override in fixed}
    check_plugins(cfg.hydra)
    params = _params(cfg)
    of_file = split([f"{key!s}={values}" for key, values in params.items() if key not in given])
    fixed, axes = fixed + of_file[0], axes + of_file[1]
    if params:
        cfg = compose([*fixed, *(axis.overrides[0] for axis in axes)])
    _check_intervals(cfg, axes)
    _check_values(cfg, fixed, axes, compose)
    of_sweeper = cfg if of_file[0] else None

    ours = cfg.hydra.launcher._target_.startswith(HOME)
    halves = cfg.hydra.sweeper._target_.endswith("HalvingSweeper")
    for asked, what in (
        (cfg.hydra.launcher.get("plan_only"), "--plan"),
        (halves, "hydra/sweeper=halving"),
    ):
        if asked and not ours:
            raise UserError(
                f"{what}: cannot be combined with hydra/launcher=basic, which trains the runs one "
                "after the other; choose another launcher"
            )
    folder = check_folders(cfg, is_sweep=True)
    _check_folder(cfg, folder)
    placed = [f"hydra.sweep.dir={QuotedString(str(folder), Quote.single).with_quotes()}"]
    is_grid = cfg.hydra.sweeper._target_.endswith("BasicSweeper")
    if is_grid:
        placed.append(f"hydra.sweeper._target_={HOME}.GridSweeper")
    if "hydra.sweep.subdir" in given:
        if cfg.resume == "restart" and is_grid and not ours:
            raise UserError(
                "resume=restart: cannot set aside runs in folders of hydra.sweep.subdir with "
                "hydra/launcher=basic; choose another name or launcher"
            )
        return placed, of_sweeper
    naming = RunNaming(tuple(axis.key for axis in axes)).continuing(folder)
    # of one run: a later sweep over seeds finds it by this name; 0 is that of earlier versions
    alone = "0" if (folder / "0").exists() else f"seed={cfg.seed}"
    placed.append(f"hydra.sweep.subdir='{naming.subdir if axes else alone}'")
    is_search = not (is_grid or halves)
    if is_search:
        names = []  # chosen as results come in
    elif axes:
        names = _folder_names(folder, naming, axes)
    else:
        names = [alone]
    # a search checks the runs of its own study, and sets all of them aside to restart
    checks_itself = is_search and (cfg.resume == "restart" or (folder / STUDY_FILE).exists())
    if not checks_itself and not any(axis.is_group for axis in axes):  # a group adds its own keys
        _check_others(cfg, folder, names, naming.keys or ("seed",))
    if names and not ours:
        for name in names:
            if cfg.resume == "restart" and (folder / name).exists():
                start.set_aside(folder / name)
        state.expect(folder, names, command([*own_configs(cfg.hydra), "-m", *overrides]))
    return placed, of_sweeper


def _params(cfg: DictConfig) -> dict[str, Any]:
    """Return the swept keys of a sweep's file, with values as on a command line.

    Raises:
        UserError: if the file sweeps no key, or nests them.
    """
    params: Any = OmegaConf.to_container(cfg.hydra.sweeper.get("params") or OmegaConf.create({}))
    for key, value in params.items():
        if isinstance(value, dict):
            nested = next((name for name, _ in flattened(value, f"{key}.")), f"{key}.KEY")
            raise UserError(
                f"hydra.sweeper.params.{key}: must not be nested; write the full key in one line, "
                f"{nested}: VALUES"
            )
    sweep = cfg.hydra.runtime.choices.get("sweep")
    if sweep and not params:
        raise UserError(
            f"sweep={sweep}: its file sweeps no key; list the keys below hydra: sweeper: "
            "params:, one line KEY: VALUES each"
        )
    return params


def _folder_names(folder: Path, naming: RunNaming, axes: Sequence[Axis]) -> list[str]:
    grid = itertools.product(*(axis.overrides for axis in axes))
    names = [naming.folder(run) for run in grid]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(
            f"two runs of the sweep map to one folder: {folder / twice}; give each value once"
        )
    return names


def split(overrides: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """Split overrides into those of one value and swept ones.

    Raises:
        UserError: for a swept key without a value, or with a range among several values.
    """
    loader = GlobalHydra.instance().config_loader()
    every = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    parsed = {o.get_key_element(): o for o in every}.values()  # of a key given twice, the last
    fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
    return fixed, [_axis(o) for o in parsed if o.is_sweep_override()]


def _check_others(cfg: DictConfig, folder: Path, names: Sequence[str], keys: Sequence[str]) -> None:
    """Check that runs of earlier launches differ only in keys that name the runs.

    Raises:
        UserError: if they differ in keys that no folder name shows.
    """
    ours = set(names)
    for name in state.expected(folder):
        if name in ours or (named_by := _named_by(folder / name)) is None:
            continue
        with suppress(Damaged):
            summary = RunRecord(folder / name).progress()
            if summary is None or named_by - dict(flattened(summary["config"])).keys():
                continue
            own, _ = parted(cfg.copy())
            spec = RunSpec.of(own, folder / name, cwd=cfg.hydra.runtime.cwd)
            changed, named_by = start.changes(spec, summary), named_by | {*keys}
            differing = [
                words
                for key, words in changed.items()
                if key not in named_by and not _follows(cfg, key, named_by)
            ]
            if differing:
                raise UserError(
                    f"{folder} holds runs with another configuration, {name} among them: "
                    f"{listed(differing)}; choose another name"
                )
            return  # one run stands for all


def _follows(cfg: DictConfig, key: str, others: Iterable[str]) -> bool:
    """Whether a value refers to one of other keys."""
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, above) if above else cfg
    text = str(unresolved(node)[name]) if isinstance(node, DictConfig) and name in node else ""
    return "${" in text and any(other in text for other in others)


def _named_by(run: Path) -> set[str] | None:
    """The keys that name a run of a sweep, from Hydra's files; ``None`` if unknown."""
    with suppress(OSError, YAMLError, OmegaConfBaseException, AttributeError):
        sweep = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.sweep
        subdir = str(unresolved(sweep)["subdir"])
        if subdir.startswith("seed="):  # of a sweep of one run
            return {"seed"}
        naming = RunNaming.of(subdir)
        return None if naming is None else {*naming.keys}
    return None


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    value = override.value()
    parts = value.list if isinstance(value, ChoiceSweep) else []
    if any(isinstance(part, Sweep) for part in parts):  # which Hydra cannot write as text
        raise UserError(
            f"{override.input_line}: a range cannot be one of several values; list them all"
        )
    if isinstance(value, IntervalSweep):
        ends = (value.start, value.end)
        values = [str(end).removesuffix(".0") for end in ends]  # may be a key of integers
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise UserError(f"{override.input_line}: an empty grid; give at least one value")
    loader = GlobalHydra.instance().config_loader()
    return Axis(
        given=override.input_line or "",
        key=key.lstrip("+"),
        overrides=tuple(f"{key}={v}" for v in values),
        is_continuous=isinstance(value, IntervalSweep),
        is_group=bool(loader.get_group_options(override.key_or_group)),
        is_integer=isinstance(value, IntervalSweep) and has_integers(value),
    )


def _check_values(base: DictConfig, fixed: list[str], axes: list[Axis], compose: Compose) -> None:
    """Check each swept value with the other keys at their first value, as in ``base``.

    Values that train the same policy, on other devices or measured differently, are logged.

    Raises:
        UserError: for an invalid value, or two that make equal runs.
    """
    first = [axis.overrides[0] for axis in axes]
    checked = check(base)
    for i, axis in enumerate(axes):
        varied = base.copy()  # reused: each value replaces the one before
        seen = {training_text(checked): axis.overrides[0]}
        results: dict[str, dict[str, None]] = {_result(checked): {axis.overrides[0]: None}}
        for override in axis.overrides[1:]:
            if axis.is_group or not _replace_value(varied, override):
                values = check(compose([*fixed, *first[:i], override, *first[i + 1 :]]))
            else:
                values = check(varied)
            same = seen.setdefault(training_text(values), override)
            if same != override and not axis.is_continuous:
                raise UserError(
                    f"{same}, {override}: give equal runs, as nothing in their training differs; "
                    + _remedy(axis)
                )
            results.setdefault(_result(values), {})[override] = None
        for alike in results.values():
            if len(alike) > 1 and not axis.is_continuous:
                log.warning(
                    "%s: train the same policy, as nothing that affects training differs",
                    listed([*alike]),
                )


def _check_intervals(cfg: DictConfig, axes: Sequence[Axis]) -> None:
    """Check that only a search has intervals, and those of integers are integers.

    Raises:
        UserError: naming the interval and what to write.
    """
    for axis in axes:
        if not axis.is_continuous:
            continue
        if cfg.hydra.sweeper._target_.endswith(("BasicSweeper", "HalvingSweeper")):
            raise UserError(
                f"{axis.given}: only a search takes an interval; add hydra/sweeper=optuna, or list "
                f"the values, {axis.key}=A,B"
            )
        above, _, name = axis.key.rpartition(".")
        known = schema_of(OmegaConf.select(cfg, above) if above else RunConfig).get(name)
        if known is not None and str(known.type).startswith("int") and not axis.is_integer:
            words = axis.given.partition("=")[2]
            raise UserError(f"{axis.given}: must be integers; write '{axis.key}=int({words})'")


def _result(values: Mapping[str, Any]) -> str:
    """The values that the trained policy depends on, as text."""
    return json.dumps(report_keys(values), sort_keys=True)


def _remedy(axis: Axis) -> str:
    if axis.key == "sweep":
        return "give one sweep= and launch the other under another name"
    return f"give one value of {axis.key}"


def _replace_value(cfg: DictConfig, override: str) -> bool:
    """Set a key in ``cfg``; return false if only Hydra can compose this override."""
    parsed = OverridesParser.create().parse_override(override)
    value = parsed.value()
    if parsed.type is not OverrideType.CHANGE or isinstance(value, dict):  # merged, not replaced
        return False
    try:
        OmegaConf.update(cfg, parsed.key_or_group, value)
    except OmegaConfBaseException:
        return False
    return True


def _check_folder(cfg: DictConfig, folder: Path) -> None:
    exists = is_sweep(folder)
    if (folder / "summary.json").exists():
        raise UserError(f"name={folder.name}: {folder} holds a single run; choose another name")
    if exists and cfg.resume is False:
        raise UserError(
            f"resume=false: {folder} holds a sweep already; choose another name, resume=auto to "
            "continue it or resume=restart to set its runs aside"
        )
    if not exists and cfg.resume is True:
        raise UserError(f"resume=true: {folder} holds no sweep; resume=auto starts one")
