"""What Hydra and OmegaConf object to, as one line: what, where, what is allowed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from bcq_exp.config.checking import replaced, unknown, wrong
from bcq_exp.config.keys import schema_of
from bcq_exp.config.meaning import flattened
from bcq_exp.config.schema import is_list
from bcq_exp.errors import UserError, first_line
from bcq_exp.files import unusable_path

T = TypeVar("T")
READERS = ("hydra", "omegaconf", "antlr4", "yaml")
_UNCLEAR = {  # their words, and ours that lead to the remedy
    "is not Optional": "needs a value",
    "Cannot merge DictConfig with ListConfig": "must be a node of keys, not a list",
    "'NoneType' object has no attribute": "a node in a file has no keys; give it some or delete it",
}


def explained(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)``; what Hydra raises of what the user gave is the user's mistake."""
    try:
        return function(*arguments)
    except Exception as error:
        if isinstance(error, UserError) or not is_mistake(error):
            raise
        raise UserError(one_line(error)) from error


def is_mistake(error: Exception) -> bool:
    """Whether an error is of what the user gave.

    Hydra and OmegaConf do nothing but read that: whatever they stumble over is in it, though they
    do not always say so with an exception of their own.
    """
    from hydra.errors import HydraException

    ours = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    return ours or unusable_path(error) is not None or _raised_in(error) in READERS


def _raised_in(error: BaseException) -> str:
    """The package that raised an error, the standard library's frames aside."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    packages = (
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame in reversed(frames)
    )
    return next((name for name in packages if name not in sys.stdlib_module_names), "")


def one_line(error: BaseException) -> str:
    """A mistake in one line."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, UserError):
            return "; ".join(str(link).splitlines())
    if line := unusable_path(error):
        return line
    for explain in (_of_override, _of_choice, _of_key):
        for link in chain:
            if line := explain(link, str(error)):
                return line
    if line := _of_slash(str(error)):
        return line
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    hints = ("See http", "Set the env", "To append to your")
    said = "; ".join(line for line in lines if not line.startswith(hints))
    return _words(said) or type(error).__name__


def _of_slash(message: str) -> str | None:
    """A file's defaults list that overrides a group by a relative path."""
    found = re.match(r"In '(.*)/[^/]*': Could not override '(.*?)@(\S*)'\.", message)
    if found is None:
        return None
    folder, group, package = found[1], found[2], found[3]
    below = f"{folder.replace('/', '.')}."
    if not (group.startswith(f"{folder}/") or package.startswith(below)):
        return None
    group, package = group.removeprefix(f"{folder}/"), package.removeprefix(below)
    target = group if package == group.replace("/", ".") else f"{group}@{package}"
    return f"{_file(message)}must say `override /{target}`, with a slash"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came of."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if cause in chain:  # raised again while its own effect was handled
            break
        chain.append(cause)
    return chain


def several_values(override: str) -> str:
    """What is said of an override that sweeps, of a single run."""
    key, _, values = override.partition("=")
    words = f"{override}: several values need a sweep; add -m"
    if not re.fullmatch(r"[^()\[\]{}\"']+", values):
        return words
    quoted = shlex.quote(f'{key}="{values}"')
    return f"{words}, or write {key}=[{values}] for a list, {quoted} for text with a comma"


def _of_override(error: BaseException, message: str) -> str | None:
    """An override that cannot be read, or sweeps where one value is wanted."""
    from hydra.errors import HydraException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    several = re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error))
    return several_values(several[1]) if several and isinstance(error, HydraException) else None


def _unreadable(override: str) -> str:
    """An override that is none to Hydra's grammar, and how what was meant is written."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: must be KEY=VALUE; put it in quotes if it has spaces"
    if is_list(key) and not value.startswith("["):
        value = f"[{value}]"
    for quoted in (_with_quoted_elements(value), _in_quotes(value)):
        if quoted is not None and "${" not in value and _is_readable(f"{key}={quoted}"):
            return f"{override}: needs quotes; write {shlex.quote(f'{key}={quoted}')}"
        if value.startswith(("[", "{")):  # in quotes as a whole it would be text
            break
    return f"{override}: cannot be parsed; check that every bracket and quote is closed"


def _with_quoted_elements(value: str) -> str | None:
    """A list with quotes around those elements that want them; ``None`` for what is no list."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    elements = [element.strip() for element in value[1:-1].split(",")]
    return f"[{','.join(e if _is_readable(f'_={e}') else _in_quotes(e) for e in elements)}]"


def _in_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _of_choice(error: BaseException, message: str) -> str | None:
    """A choice that does not exist."""
    from hydra.errors import MissingConfigException

    if not isinstance(error, MissingConfigException) or error.missing_cfg_file is None:
        return None
    group, _, choice = error.missing_cfg_file.rpartition("/")
    if not group:
        return None
    if line := replaced(f"{group}={choice}"):
        return _file(message) + line
    if options := [option for option in error.options or () if not option.startswith("_")]:
        return f"{_file(message)}{group}={choice}: no such choice; there are {', '.join(options)}"
    return (
        f"{_file(message)}{error.missing_cfg_file}: no such file; to choose from another group, "
        "write `override /GROUP: CHOICE` in the defaults list"
    )


def _words(said: str) -> str:
    return next((ours for theirs, ours in _UNCLEAR.items() if theirs in said), said)


def _of_key(error: BaseException, message: str) -> str | None:
    """A key that is misspelt or has a value of the wrong type, in terms of the schema."""
    if not isinstance(error, OmegaConfBaseException):
        return None
    override = re.search(r"override '?\+*([^\s'=]+)(=\S.*)?", message)
    key = override[1] if override else error.full_key
    if key and (line := replaced(key)):
        return _file(message) + line
    if key and key.startswith("~"):
        return f"{key}: must not be removed"
    where = _file(message) + (f"{key}: " if key else "")
    if not key:
        return where + _words(first_line(error))
    node, name = error.parent_node, key.rpartition(".")[2]
    while isinstance(node, ListConfig):  # a list's elements are wrong as the list is
        name, node = str(node._key()), node._get_parent()
    if not isinstance(node, DictConfig):
        return where + _words(first_line(error))
    value = (override[2] or "=")[1:] if override else str(error.value)
    known = schema_of(node)
    if name in known and not isinstance(error, InterpolationResolutionError):
        return _file(message) + wrong(key, value, known[name])
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and name not in node:
        names = {*map(str, node), *known}
        return _file(message) + unknown(key, names, _of_algorithm(node)) + _elsewhere(name, node)
    return where + _words(first_line(error))


def _file(message: str) -> str:
    """The file that Hydra names, before what is wrong in it; a command's own is not named."""
    found = re.match(r"In '(.*/.*?)': ", message)
    return f"{found[1]}.yaml: " if found and found[1] != "hydra/config" else ""


def _elsewhere(name: str, node: DictConfig) -> str:
    """The key of that name below a node, as a hint."""
    keys = (key for key, _ in flattened(OmegaConf.to_container(node)))  # type: ignore[arg-type]
    found = (key for key in keys if key.endswith(f".{name}") and not key.startswith("hydra."))
    return next((f"; did you mean {key}?" for key in found), "")


def _of_algorithm(node: DictConfig) -> str:
    """The algorithm, where it decides which nodes there are."""
    target = (node.get("algo") or {}).get("_target_")
    return f" of {target.rpartition('.')[2]}" if isinstance(target, str) else ""
