"""Tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 160  # characters, where the output is no terminal


def console(file: TextIO | None = None) -> Console:
    """Return a console that prints text as it is, to standard output or a file."""
    from rich.console import Console

    is_terminal = (file or sys.stdout).isatty()
    return Console(file=file, width=None if is_terminal else WIDTH, markup=False, highlight=False)


def table(title: str | None, first: str, others: Iterable[str]) -> Table:
    """Make a table of one column of text, which is folded, and others of numbers."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    made.add_column(first, overflow="fold")
    for name in others:
        made.add_column(name, justify="right", no_wrap=True)
    return made
