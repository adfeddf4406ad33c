"""The terminal as a place for log lines."""

from __future__ import annotations

import logging
import sys
from typing import Any


class ConsoleHandler(logging.StreamHandler):
    """Log lines to the terminal, on the stream that is standard output at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:  # a progress bar puts itself in the place of standard output
        return sys.stdout
