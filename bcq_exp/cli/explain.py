"""What Hydra and OmegaConf object to, as one line: what, where, what is allowed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, TypeVar

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bcq_exp.config.checking import describe
from bcq_exp.config.keys import schema_of
from bcq_exp.errors import UserError

T = TypeVar("T")
READERS = ("hydra", "omegaconf", "antlr4", "yaml")


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
    return ours or _raised_in(error) in READERS


def _raised_in(error: BaseException) -> str:
    """The package that raised an error, the standard library's frames aside."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    packages = (
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame in reversed(frames)
    )
    return next((name for name in packages if name not in sys.stdlib_module_names), "")


def one_line(error: BaseException) -> str:
    """A mistake in one line."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if cause in chain:  # raised again while its own effect was handled
            break
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return "; ".join(str(link).splitlines())
    for link in chain:
        if isinstance(link, OmegaConfBaseException) and (line := _key_error(link, str(error))):
            return line
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("LexerNoViableAltException: "):
        override = lines[0].partition(": ")[2]
        key, _, value = override.partition("=")
        quoted = f"{key}='{value}'"
        return f"{override}: a character that has to stand in quotes, {shlex.quote(quoted)}"
    if "Config search path:" in lines:  # a choice that does not exist
        lines = lines[: lines.index("Config search path:")]
        head, *options = (line for line in lines if not line.startswith("Available options"))
        options = [option for option in options if not option.startswith("_")]
        return f"{head}; there are {', '.join(options)}" if options else head
    hints = ("See http", "Set the env", "To append to your")
    told = "; ".join(line for line in lines if not line.startswith(hints))
    return told or type(error).__name__


def _key_error(error: OmegaConfBaseException, message: str) -> str | None:
    """A misspelt key or a value of the wrong type, in terms of the schema."""
    override = re.search(r"override '?\+*([^\s'=]+)(=\S.*)?", message)
    node = error.parent_node
    if override is None or not isinstance(node, DictConfig):
        return None
    key, value = override.group(1), override.group(2) or ""
    known = schema_of(node)
    name = key.rsplit(".", 1)[-1]
    if name in known:
        return f"{key}{value}: must be {describe(known[name])}"
    names = sorted({*map(str, node), *known} - {"_target_", "hydra"})
    return f"{key}: no such key{_of_algorithm(node)}; there are {', '.join(names) or 'none'}"


def _of_algorithm(node: DictConfig) -> str:
    """The algorithm, where it decides which nodes there are."""
    target = (node.get("algo") or {}).get("_target_")
    return f" of {target.rpartition('.')[2]}" if isinstance(target, str) else ""
