"""The arguments every timing script of a training step takes."""

from __future__ import annotations

import argparse
from typing import Any

from tests.bench.sizes import SIZES


def parse(
    doc: str | None,
    *,
    modes: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    processes: bool = False,
) -> Any:
    """``--size``, ``--seconds``, overrides of our configuration, and a script's modes and flags.

    ``.sizes`` holds the dimensions ``--size`` names.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if modes:
        parser.add_argument("mode", choices=modes)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to measure for")
    if processes:
        parser.add_argument("--processes", type=int, default=1, help="that run it side by side")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("overrides", nargs="*", help="of our configuration, such as seed=1")
    args = parser.parse_args()
    args.sizes = SIZES[args.size]
    return args
