"""Memory and time of loading a large table of logged data.

    python -m tests.bench.table [--rows 5000000] [--csv] [--folder DIR]

Writes a Parquet (or CSV) file of 12 columns in a temporary folder, which is deleted afterwards:
episode, time, 8 observations, one of them text, an action and a reward. Then loads it twice, each
in a fresh process: from the file, and from the cache. Prints a line of JSON each: seconds, private
memory (RssAnon) at its most and the greatest resident memory (VmHWM, which counts mapped files that
the system takes back when it has to) in MiB above what the process had before, next to the size of
the arrays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import timing
from tests.bench.large import MostPrivate, resident_mib
from tests.bench.load_1m import surroundings

EPISODE, PART = 100, 500_000  # rows


def write_table(path: Path, num_rows: int) -> None:
    """Random numbers, a part of the rows at a time."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    rng = np.random.default_rng(0)
    writer = None
    for first in range(0, num_rows, PART):
        rows = np.arange(first, min(first + PART, num_rows))
        columns = {
            "episode": rows // EPISODE,
            "time": rows % EPISODE,
            **{f"obs_{i}": rng.normal(size=len(rows)).astype(np.float32) for i in range(7)},
            "obs_ward": np.array(["medical", "surgical", "other"])[rng.integers(0, 3, len(rows))],
            "action": rng.integers(0, 5, len(rows)),
            "reward": rng.normal(size=len(rows)),
        }
        table = pa.table(columns)
        if writer is None:
            kind = csv.CSVWriter if path.suffix == ".csv" else parquet.ParquetWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measure(path: Path) -> None:
    """Load in this process; imports are neither timed nor counted."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from bcq_exp.data.datasets import load_table

    before, private = resident_mib("VmHWM"), resident_mib("RssAnon")
    watch = MostPrivate()
    watch.start()
    start = time.perf_counter()
    data = load_table(str(path))
    seconds = time.perf_counter() - start
    arrays = data.transitions.arrays().values()
    timing.report(
        transitions=len(data.transitions),
        load_seconds=round(seconds, 1),
        private_most_mib=round(watch.most - private),
        resident_most_mib=round(resident_mib("VmHWM") - before),
        file_mib=round(path.stat().st_size / 2**20),
        arrays_mib=round(sum(array.nbytes for array in arrays) / 2**20),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--csv", action="store_true", help="a CSV file")
    parser.add_argument("--folder", help="where the temporary folder goes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / ("log.csv" if args.csv else "log.parquet")
        write_table(path, args.rows)
        command = [sys.executable, "-m", "tests.bench.table", "--measure", str(path)]
        for name in (path.name, "cache"):
            result = subprocess.run(
                command,
                env=surroundings(Path(folder)),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            print(json.dumps({"from": name} | json.loads(result.stdout)), flush=True)


if __name__ == "__main__":
    main()
