"""Plain arguments of commands: a mistake in them is one line, as any other."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from bcq_exp.errors import UserError
from bcq_exp.ranges import Range


class Parser(argparse.ArgumentParser):
    """An argument parser that does not end the process with its usage."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UserError: with the reason.
        """
        refuse(message)


def refuse(message: str) -> NoReturn:
    """What a parser has to say, without its usage.

    Raises:
        UserError: that.
    """
    raise UserError(f"{message}; see --help")


def place(text: str) -> str:
    """A folder, a file or a glob: nothing is not the present folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def path(text: str) -> Path:
    """One path, of which the same is true."""
    return Path(place(text))


def number(kind: type, allowed: Range) -> Callable[[str], Any]:
    """Numbers of a kind, int or float, in a range."""

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


def seconds(text: str) -> float:
    """A time to wait."""
    number = float(text)
    if not (isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return number
