"""Completion of command lines in a shell, by Hydra's protocol.

The script of ``bcq_exp -sc install=bash`` runs ``bcq_exp -sc query=bash`` with the line that is
being typed in the environment variable ``COMP_LINE``, and offers the words that it prints.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

OPTIONS = ("-sc", "--shell-completion")


@dataclass(frozen=True)
class Line:
    """A command line that is being typed.

    Args:
        words: the complete words, the program first.
        typed: the beginning of the word at the cursor; empty for a new word.
    """

    words: Sequence[str]
    typed: str


def is_query(words: Sequence[str]) -> bool:
    """Whether a shell asks for completions of its line."""
    if len(words) < 2 or "COMP_LINE" not in os.environ:
        return False
    return words[0] in OPTIONS and words[1].startswith("query=")


def line() -> Line:
    """Return the line that is being typed."""
    text = os.environ["COMP_LINE"]
    words = text.split()
    is_new = not text or text[-1].isspace()
    return Line(words, "") if is_new else Line(words[:-1], words[-1])


def replace_line(words: Iterable[str], typed: str) -> None:
    """Replace the line that :func:`line` and Hydra read."""
    os.environ["COMP_LINE"] = " ".join([*words, typed])


def folders(typed: str) -> Iterator[str]:
    """Return folders that begin with ``typed``; for a new word those in ``multirun``."""
    pattern = f"{glob.escape(typed)}*" if typed else "multirun/*"
    return (f"{found}/" for found in glob.iglob(pattern) if os.path.isdir(found))


def answer(candidates: Iterable[str]) -> NoReturn:
    """Print the candidates that begin with the word at the cursor, and exit."""
    typed = line().typed
    separator = "\n" if sys.argv[2:3] == ["query=fish"] else " "
    print(separator.join(sorted(c for c in candidates if c.startswith(typed))))
    sys.exit(0)
