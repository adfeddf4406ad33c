"""Plain arguments of commands: a mistake in them is one line, as any other."""

from __future__ import annotations

import argparse
from math import isfinite
from pathlib import Path
from typing import NoReturn

from bcq_exp.errors import UserError


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
        raise argparse.ArgumentTypeError("a path that is empty")
    return text


def path(text: str) -> Path:
    """One path, of which the same is true."""
    return Path(place(text))


def seconds(text: str) -> float:
    """A time to wait."""
    number = float(text)
    if not (isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return number
