"""Arguments in Hydra's form, ``KEY=VALUE``, of commands that Hydra does not compose."""

from __future__ import annotations

import argparse
import glob
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bcq_exp.cli import completion
from bcq_exp.errors import UserError
from bcq_exp.ranges import PATH, POSITIVE, Matching, Range

NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-inf|-nan", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Reads ``KEY=VALUE`` words, and paths by their position.

    A key is declared as an option, ``--some-key`` for ``some_key``; that form is read too.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, formatter_class=_Help)
        self._positionals.title, self._optionals.title = "arguments", "keys"
        self._negative_number_matcher = NEGATIVE  # argparse takes -1e9 for an option

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse words, by default those of the command line.

        Raises:
            UserError: if they are invalid.
        """
        words = list(sys.argv[1:] if args is None else args)
        if completion.is_query(words):
            _, typed = completion.line()
            completion.answer(self._candidates(typed))
        if "--" not in words:
            words = self._as_options(words)
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UserError: with the reason.
        """
        if found := re.fullmatch(r"argument (?:-\w/)?(?:--)?([\w-]+): (.*)", message, re.DOTALL):
            key, reason = found[1].replace("-", "_"), found[2]
            is_value = not reason.startswith(("expected", "ignored", "not allowed"))
            raise UserError(f"{key}{'=' if is_value else ': '}{reason}")
        refuse(message)

    def format_help(self) -> str:
        """The usage, a description, operands and keys."""
        self.usage = " ".join([self.prog, *map(_usage, self._operands), "[KEY=VALUE ...]"])
        return super().format_help()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value}: must be one of {names}")

    @property
    def _operands(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    @property
    def _keys(self) -> dict[str, argparse.Action]:
        with_option = (action for action in self._actions if action.option_strings)
        return {action.dest: action for action in with_option if action.dest != "help"}

    def _as_options(self, words: Sequence[str]) -> list[str]:
        """Convert words to the form of argparse, options last.

        Raises:
            UserError: for a key that does not exist.
        """
        keys, operands = self._keys, [action.dest for action in self._operands]
        are_paths = all(action.type in (path, place) for action in self._operands)
        kept, options = [], list[str]()
        for word in words:
            key, equals, value = word.partition("=")
            if equals and key in keys:
                options += _option(keys[key], value)
            elif equals and are_paths and key in operands:
                kept.append(value)
            elif equals and are_paths and re.fullmatch(r"\w+", key) and not _is_path(word):
                names = ", ".join(sorted(keys)) or "none"
                raise UserError(f"{word}: no such key; there are {names}")
            else:
                kept.append(word)
        return [*kept, *options]

    def _candidates(self, typed: str) -> Iterator[str]:
        """Return completions of ``typed``."""
        for key, action in self._keys.items():
            if action.nargs == 0:
                yield f"{key}=true"
            elif action.choices is not None and typed.startswith(f"{key}="):
                yield from (f"{key}={value}" for value in action.choices)
            else:
                yield f"{key}="
        if any(action.type in (path, place) for action in self._operands):
            yield from completion.folders(typed)


class _Help(argparse.HelpFormatter):
    """Shows keys as they are typed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.dest.upper()
        return "--help" if action.dest == "help" else f"{action.dest}={_values(action)}"


def _usage(operand: argparse.Action) -> str:
    name = operand.dest.upper() + "..." * (operand.nargs in ("*", "+"))
    return f"[{name}]" if operand.nargs == "*" else name


def _values(action: argparse.Action) -> str:
    """Describe the values of a key."""
    if action.nargs == 0:
        return "true"
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    name = action.metavar or action.dest.rpartition("_")[2].upper()
    if isinstance(name, tuple):
        return f"[{','.join(name)}]"
    return f"[{name},...]" if action.nargs == "+" else name


def _option(action: argparse.Action, value: str) -> list[str]:
    """Convert a key and value to argparse's form; ``null`` is the default.

    Raises:
        UserError: for a switch that is neither true nor false.
    """
    flag = action.option_strings[-1]
    if value == "null":
        return []
    if action.nargs in (0, "?") and value in ("true", "false"):
        return [flag] * (value == "true")
    if action.nargs == 0:
        raise UserError(f"{action.dest}={value}: must be true or false")
    if action.nargs not in (None, "?"):
        return [flag, *(item.strip() for item in value.strip("[]").split(","))]
    return [f"{flag}={value}"]


def _is_path(word: str) -> bool:
    return glob.has_magic(word) or Path(word).exists()


def refuse(message: str, meant: Mapping[str, str] | None = None) -> NoReturn:
    """Refuse arguments for a parser's reason, without its usage.

    Args:
        meant: options of other programs, and those of the command that do the same.

    Raises:
        UserError: with the reason.
    """
    unknown = message.partition("unrecognized arguments: ")[2].split()
    if unknown and (ours := (meant or {}).get(unknown[0].replace("_", "-"))):
        raise UserError(f"{unknown[0]}: no such option; did you mean {ours}?")
    if unknown and (option := re.fullmatch(r"--(\w[\w.-]*)(=.*)?", unknown[0])):
        key = f"{option[1].replace('-', '_')}{option[2] or '=...'}"
        raise UserError(
            f"{unknown[0]}: no such option (see --help); keys are given as KEY=VALUE, {key}"
        )
    raise UserError(f"{message}; see --help")


def text(allowed: Matching) -> Callable[[str], str]:
    """A parser of texts that match a form."""

    def parse(given: str) -> str:
        if given not in allowed:
            raise argparse.ArgumentTypeError(f"{given}: must be {allowed}")
        return given

    return parse


def number(kind: type, allowed: Range) -> Callable[[str], Any]:
    """A parser of numbers, int or float, in a range."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if value not in allowed:
            noun = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text}: must be {noun} {allowed}")
        return value

    return parse


seconds = number(float, POSITIVE)
place = text(PATH)  # a folder, a file or a glob: an empty one is not the current folder


def home(places: Sequence[str]) -> Path:
    """The default folder of results: that of a run or sweep, the current one for several."""
    alone = len(places) == 1 and Path(places[0]).is_dir()
    return Path(places[0] if alone else ".")


def path(given: str) -> Path:
    """Parse a path."""
    return Path(place(given))
