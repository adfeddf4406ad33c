"""Completion of command lines in a shell, by Hydra's protocol.

The script of ``bcq_exp -sc install=bash`` runs ``bcq_exp -sc query=bash`` with the line that is
being typed in the environment variable ``COMP_LINE``, and offers the words that it prints.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

OPTIONS = ("-sc", "--shell-completion")


def is_query(words: Sequence[str]) -> bool:
    """Whether a shell asks for completions of its line."""
    if len(words) < 2 or "COMP_LINE" not in os.environ:
        return False
    return words[0] in OPTIONS and words[1].startswith("query=")


def line() -> tuple[list[str], str]:
    """Return the line that is being typed: its complete words, the program first, and the beginning
    of the word at the cursor, which is empty for a new word.
    """
    text = os.environ["COMP_LINE"]
    *words, typed = text.split() if text and not text[-1].isspace() else [*text.split(), ""]
    return words, typed


def replace_line(words: Iterable[str], typed: str) -> None:
    """Replace the line that :func:`line` and Hydra read."""
    os.environ["COMP_LINE"] = " ".join([*words, typed])


def folders(typed: str) -> Iterator[str]:
    """Return folders that begin with ``typed``; for a new word those in ``multirun``."""
    pattern = f"{glob.escape(typed)}*" if typed else "multirun/*"
    return (f"{found}/" for found in glob.iglob(pattern) if os.path.isdir(found))


def answer(candidates: Iterable[str]) -> NoReturn:
    """Print the candidates that begin with the word at the cursor, and exit."""
    _, typed = line()
    separator = "\n" if sys.argv[2:3] == ["query=fish"] else " "
    print(separator.join(sorted(c for c in candidates if c.startswith(typed))))
    sys.exit(0)
