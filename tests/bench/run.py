"""Runs the benchmarks and writes tests/bench/RESULTS.md.

.venv/bin/python -m tests.bench.run [--rows train_paper,train_small] [--repeats 5]

Contestants of a row run in alternation, each in a process of its own; the table gives medians, the
spread, and for ours the ratio to the best of the others, taken round by round. "of GEMM peak" is
the step's arithmetic (sizes.step_flops) over the best matrix product measured at that precision.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.bench import report
from tests.bench.contest import Row, run_row
from tests.bench.peers import venv
from tests.bench.rows import all_rows, uses_peers

IDLE_LOAD = 0.5


def main() -> None:
    args = _arguments()
    rows = _chosen(all_rows(args.seconds), args.rows)
    if any(uses_peers(row) for row in rows):
        _make_peers()
    load = os.getloadavg()[0]
    if load > IDLE_LOAD:
        _say(f"warning: the load is {load:.1f}; other work on this machine spoils the figures")
    peaks: dict[str, float] = {}
    sections: dict[str, str] = {}
    for row in rows:
        body = f"{row.title}.\n\n"
        if reason := row.skip():
            body += f"Skipped: {reason}."
            sections[row.name] = body
        else:
            outcomes = run_row(row, args.repeats, args.threads, _say)
            if row.name == "gemm":
                peaks = report.gemm_peaks(outcomes)
            when = report.conditions(args.repeats, args.threads, load)
            body += report.table(row, outcomes, peaks)
            sections[row.name] = f"{body}\n\n{when}.\n`{report.command()}`\n{report.versions()}."
        print(f"\n## {row.name}\n\n{body}", flush=True)
        if not args.dry:
            order = [every.name for every in all_rows(args.seconds)]
            report.merge(sections, order)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [row.name for row in all_rows(0)]
    parser.add_argument("--rows", default=",".join(names), help="comma-separated; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each row")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md alone")
    return parser.parse_args()


def _chosen(rows: list[Row], names: str) -> list[Row]:
    wanted = [name.strip() for name in names.split(",")]
    unknown = sorted(set(wanted) - {row.name for row in rows})
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}; there are {', '.join(row.name for row in rows)}")
    return [row for row in rows if row.name in wanted]


def _make_peers() -> None:
    try:
        venv.ensure()
    except (OSError, subprocess.CalledProcessError) as error:
        _say(f"the peers' venv cannot be made ({error}): measured without them")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
