"""Commands on a terminal: a pty whose screen is kept after every write."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pyte

from tests.forked import kept

LINES = 200  # of the screen: nothing scrolls away


@dataclass(frozen=True)
class Shown:
    """What a command showed on a terminal.

    Args:
        frames: the lines of the screen after every write, without trailing blanks.
    """

    status: int | None
    stderr: str
    frames: list[list[str]]

    @property
    def last(self) -> list[str]:
        """The lines at the end."""
        return self.frames[-1]


def resize(terminal: int, columns: int, lines: int = LINES) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def in_terminal(*args: str, cwd: Path, columns: int = 80, module: str = "bcq_exp") -> Shown:
    """As :func:`tests.forked.forked`, with a terminal as standard output."""
    ours, theirs = pty.openpty()
    resize(theirs, columns)
    screen = pyte.Screen(columns, LINES)
    frames: list[list[str]] = []
    reader = Thread(target=_read, args=(ours, screen, frames))
    reader.start()
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("COLUMNS", None)
    done = kept().run(module, args, cwd, limit=200, env=env, limits=(), terminal=os.ttyname(theirs))
    os.close(theirs)
    reader.join()
    os.close(ours)
    return Shown(done.status, done.stderr, frames)


def _read(terminal: int, screen: pyte.Screen, frames: list[list[str]]) -> None:
    stream = pyte.ByteStream(screen)
    try:
        while chunk := os.read(terminal, 65536):
            stream.feed(chunk)
            lines = [line.rstrip() for line in screen.display]
            frames.append([line for line in lines if line])
    except OSError:  # Linux's way to say that the other side is closed
        pass
