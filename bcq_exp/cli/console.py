"""A log handler for the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any


class ConsoleHandler(logging.StreamHandler):
    """Writes log lines to the stream that is standard output at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:  # a progress bar replaces standard output
        return sys.stdout
