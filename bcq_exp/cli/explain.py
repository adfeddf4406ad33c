"""Explain errors of Hydra and OmegaConf in one line: what, where, what is allowed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    OmegaConfBaseException,
    ValidationError,
)

from bcq_exp.cli.grammar import of_override, several_values
from bcq_exp.cli.schemas import conf_folder
from bcq_exp.config.checking import elsewhere, replaced, unknown, wrong
from bcq_exp.config.keys import schema_of
from bcq_exp.config.overrides import key_and_value
from bcq_exp.config.schema import SCHEMAS
from bcq_exp.errors import RunStopped, UserError, causes, first_line
from bcq_exp.files import refusal, unusable_path

READERS = ("hydra", "omegaconf", "antlr4", "yaml")
DATASETS = ("pendulum", "minari", "d4rl_hdf5", "table")  # choices that are also schemas
DATA_FILES = {
    "csv": "table", "parquet": "table", "hdf5": "d4rl_hdf5", "h5": "d4rl_hdf5",
}  # fmt: skip


class PastHydra(BaseException):
    """Carries an error past Hydra, which would add its own lines to an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def errors_pass() -> Iterator[None]:
    """Carry errors past Hydra; in a sweep, where other runs follow, only mistakes and signals.

    Raises:
        PastHydra: with the error.
    """
    try:
        yield
    except Exception as error:
        hydra: Any = HydraConfig.instance().cfg
        is_one_of_several = hydra is not None and hydra.hydra.mode == RunMode.MULTIRUN
        by_signal = isinstance(error, RunStopped) and error.by_signal
        if is_one_of_several and not (is_mistake(error) or by_signal):
            raise
        raise PastHydra(error) from None


@contextmanager
def explained(overrides: Sequence[str], is_sweep: bool) -> Iterator[None]:
    """Explain errors of Hydra by the overrides that it was given.

    Args:
        is_sweep: whether ``-m`` was given.

    Raises:
        UserError: in place of an error that is the user's mistake.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_mistake(error):
            raise
        line = _of_overrides(error, overrides, is_sweep)
        raise UserError(line or one_line(error)) from error


def is_mistake(error: Exception) -> bool:
    """Whether an error is the user's mistake.

    Hydra and OmegaConf only read the user's input, so that every error raised in them counts,
    whatever its type. A full disk, where Hydra writes, is not the user's mistake.
    """
    if isinstance(error, UserError):
        return True
    if refusal(error) is not None:
        return False
    if isinstance(error, RecursionError):  # raised wherever the stack ends
        return not set(READERS).isdisjoint(_packages(error))
    ours = isinstance(error, HydraException | OmegaConfBaseException)
    return ours or unusable_path(error) is not None or next(_packages(error), "") in READERS


def _packages(error: BaseException) -> Iterator[str]:
    """The packages that an error passed, from where it was raised, without the standard library."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    names = (str(frame.f_globals.get("__name__")).partition(".")[0] for frame in reversed(frames))
    return (name for name in names if name not in sys.stdlib_module_names)


def one_line(error: BaseException) -> str:
    """A mistake in one line."""
    for link in causes(error):
        if isinstance(link, UserError):
            return "; ".join(str(link).splitlines())
    if line := unusable_path(error):
        return line
    for link in causes(error):
        if line := of_override(link) or _of_choice(link) or _of_group(link) or _of_key(link):
            return _file(str(error)) + line
    if isinstance(error, RecursionError):
        return "the defaults list of a file leads back to the file; remove that entry"
    if isinstance(error, AttributeError):  # of None
        return "a node in a file has no keys; give it some or delete it"
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    hints = ("See http", "Set the env", "To append to your")
    text = "; ".join(line for line in lines if not line.startswith(hints))
    return text.replace(":; ", ": ") or type(error).__name__


def _file(message: str) -> str:
    """The user's file that Hydra names first, as in ``In 'experiment/mine': ...``."""
    before, _, after = message.partition("'")
    name = after.partition("'")[0] + ".yaml"
    is_ours = (conf_folder() / name).exists()  # the user should not edit those
    return f"{name}: " if before == "In " and not is_ours else ""


def _of_overrides(error: Exception, overrides: Sequence[str], is_sweep: bool) -> str | None:
    """Explain an error of Hydra that does not name the override, or not clearly."""
    for override in overrides:
        key, _ = key_and_value(override)
        if line := replaced(key) or replaced(override.lstrip("+")):
            return line
        # a name in place of an optimizer's node, of whose keys others are given
        if re.fullmatch(r"\w+_optim=\w+", override) and _is_below(key, error):
            return f"{override}: choose it with optimizer@{override}"
    for link in causes(error):
        if isinstance(link, MissingConfigException) and _is_given(link, overrides):
            return _of_choice(link)
    if isinstance(error, OverrideParseException) or any(
        isinstance(link, OmegaConfBaseException) for link in causes(error)
    ):
        return None
    if line := _of_addition(error, overrides):
        return line
    for given in OverridesParser.create().parse_overrides(list(overrides)):
        if given.is_sweep_override() and not is_sweep:
            return several_values(given.input_line or "")
        if not given.key_or_group:
            return f"{given.input_line}: must be KEY=VALUE"
        is_no_choice = isinstance(given.value(), bool | int | float | list | None)
        if is_no_choice and (conf_folder() / given.key_or_group).is_dir():
            return f"{given.input_line}: must name one of the group's choices, or be left out"
    return None


def _is_below(key: str, error: Exception) -> bool:
    """Whether an error is of a key below another."""
    keys = (getattr(link, "full_key", None) for link in causes(error))
    return any(str(found).startswith(f"{key}.") for found in keys)


def _of_addition(error: Exception, overrides: Sequence[str]) -> str | None:
    """Explain a group that is chosen twice, and keys that Hydra does not add."""
    found = re.search(r"'override (\S+): (\S+)'|config groups is not supported", str(error))
    for override in overrides:
        group, _ = key_and_value(override)
        if found and override.startswith("+") and found[1] in (None, group):
            return f"{override}: leave out the +; write {override.lstrip('+')}"
        if group.startswith("hydra.sweeper.params"):
            return f"{override}: give swept values as KEY=VALUES with -m, such as -m seed=0,1"
    if found and found[1]:
        line = f"`override /{found[1].strip('/')}: {found[2]}`"
        return f"{_file(str(error))}{found[1]}: chosen twice; write {line} in the defaults list"
    return None


def _of_choice(error: BaseException) -> str | None:
    """Explain a choice that does not exist."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return None
    group, _, choice = error.missing_cfg_file.rpartition("/")
    if not group:
        return f"{choice}.yaml: no such file; check --config-name, --config-dir and --config-path"
    if line := replaced(f"{group}={choice}"):
        return line
    if line := _of_data(error.missing_cfg_file):
        return line
    if options := [option for option in error.options or () if not option.startswith("_")]:
        return f"{group}={choice}: no such choice; there are {', '.join(options)}"
    return (
        f"{error.missing_cfg_file}: no such file; to choose from another group, write "
        "`override /GROUP: CHOICE` in the defaults list"
    )


def _of_data(missing: str) -> str | None:
    """Explain a file, or a Minari id, that was given as a choice of ``dataset``."""
    group, _, given = missing.partition("/")
    if group != "dataset":
        return None
    suffix = given.rpartition(".")[2].lower() if "." in given else ""
    if suffix in DATA_FILES:
        remedy = f"dataset={DATA_FILES[suffix]} dataset.path={given}"
    elif re.fullmatch(r".*-v\d+", given):
        remedy = f"dataset=minari dataset.id={given}"
    else:
        return None
    return f"dataset={given}: no such choice; write {remedy}"


def _is_given(error: MissingConfigException, overrides: Sequence[str]) -> bool:
    """Whether an override, not a file, names the choice that does not exist."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    return any(
        key.partition("@")[0] == group and choice in re.split(r"[^\w-]", values)
        for key, values in map(key_and_value, overrides)
    )


def _of_group(error: BaseException) -> str | None:
    """Explain a group that is not in the defaults list."""
    if not isinstance(error, ConfigCompositionException):
        return None
    found = re.search(
        r"Could not override '(.*?)'\.\s*(?:No match|Did you mean to override (.*\?))", str(error)
    )
    if found is None:
        return None
    if line := replaced(f"{found[1]}=NAME"):
        return line
    line = f"{found[1]}: no such group in this configuration; "
    if found[2]:
        return f"{line}did you mean {found[2]}"
    if _file(str(error)):
        return f"{line}write `override /GROUP: CHOICE`, with a slash, for a group that algo= reads"
    return f"{line}leave it out, or choose an algo= that reads it"


def _of_key(error: BaseException) -> str | None:
    """Explain a key that is misspelt or has a value of the wrong type, by the schema."""
    if not isinstance(error, OmegaConfBaseException) or error.msg is None:
        return None
    if not error.full_key:
        return first_line(error)
    key, node, name = error.full_key, error.parent_node, error.full_key.rpartition(".")[2]
    if line := replaced(key):
        return line
    if isinstance(node, DictConfig):
        known = schema_of(node)
        if isinstance(error, ConfigKeyError | ConfigAttributeError) and name not in node:
            names = {*map(str, node), *known}
            line = unknown(key, names, _owner(key, node)) + elsewhere(name, node)
            return line + _choices_with(key)
        if isinstance(error, ConfigTypeError):
            return f"{key}: must not be removed"
        if isinstance(error, ValidationError) and name in known:
            return wrong(key, error.value, known[name])
    if isinstance(error, ValidationError) and str(error.value) == "None":  # or a node of it
        return f"{key}: needs a value"
    reason = re.sub(r'^.* resolving interpolation: "?(.*?)"?$', r"\1", first_line(error))
    if found := re.fullmatch(r"Missing mandatory value: (.*)", reason):
        return f"{found[1]}: has no value; give {found[1]}=..."
    return f"{key}: {reason}"


def _owner(key: str, node: DictConfig) -> str:
    """Name the choice that decides which keys a node has."""
    is_algorithm = key.startswith("algo.")
    target = (node if is_algorithm else node.get("algo") or {}).get("_target_")
    if isinstance(target, str):
        return f" of {target.rpartition('.')[2]}"
    names = (name for name in DATASETS if SCHEMAS[name] is OmegaConf.get_type(node))
    return next((f" of dataset={name}" for name in names), "")


def _choices_with(key: str) -> str:
    """Suggest the choices of ``dataset`` or ``online`` that have a key."""
    group, _, name = key.partition(".")
    known = {"dataset": DATASETS, "online": ("online",)}.get(group, ())
    found = [choice for choice in known if name in schema_of(SCHEMAS[choice])]
    if not found:
        return ""
    choices = "online=explore" if group == "online" else f"dataset={'|'.join(found)}"
    return f"; to set it, choose {choices}"
