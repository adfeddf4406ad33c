"""The arguments every timing script of a training step takes."""

from __future__ import annotations

import argparse
from typing import Any

from tests.bench.sizes import SIZES


def parse(doc: str | None, *, modes: tuple[str, ...] = ()) -> Any:
    """``--size``, ``--seconds``, a mode where there are some, and overrides of our configuration.

    ``.sizes`` holds the dimensions ``--size`` names.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if modes:
        parser.add_argument("mode", choices=modes)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to measure for")
    parser.add_argument("overrides", nargs="*", help="of our configuration, such as seed=1")
    args = parser.parse_args()
    args.sizes = SIZES[args.size]
    return args
