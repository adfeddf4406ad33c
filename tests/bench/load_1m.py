"""Time and memory of loading one million transitions of HalfCheetah's size from Minari HDF5.

    python tests/bench/load_1m.py [--episodes 1000] [--steps 1000] [--folder DIR]

Makes the data set in a temporary folder (about 250 MB, deleted afterwards), then loads it twice,
each time in a fresh process: first from HDF5, then from the cache. Prints seconds for the load
call and the growth of the process's peak memory over the size of the resulting arrays. Targets on
2 cores: first load < 5 s, ratio < 2.5, second load < 1 s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OBS_SIZE, ACT_SIZE = 17, 6
DATASET_ID = "bench/halfcheetah-v0"


def write_dataset(root: Path, episodes: int, steps: int) -> None:
    """A Minari data set of random numbers, float64 as MuJoCo's, one HDF5 group an episode."""
    import h5py
    import numpy as np

    folder = root / DATASET_ID / "data"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for index in range(episodes):
            group = file.create_group(f"episode_{index}")
            truncations = np.zeros(steps, bool)
            truncations[-1] = True
            arrays: dict[str, Any] = {
                "observations": rng.normal(size=(steps + 1, OBS_SIZE)),
                "actions": rng.uniform(-1, 1, size=(steps, ACT_SIZE)).astype(np.float32),
                "rewards": rng.normal(size=steps),
                "terminations": np.zeros(steps, bool),
                "truncations": truncations,
            }
            for name, array in arrays.items():  # chunked as Minari's own writer does
                shape = (None, *array.shape[1:])
                group.create_dataset(name, data=array, chunks=True, maxshape=shape)
    (folder / "metadata.json").write_text(json.dumps(_metadata(episodes, steps)))


def _metadata(episodes: int, steps: int) -> dict[str, object]:
    def box(size: int, bound: float, dtype: str) -> str:
        low, high = [-bound] * size, [bound] * size
        space = {"type": "Box", "dtype": dtype, "shape": [size], "low": low, "high": high}
        return json.dumps(space)

    return {
        "dataset_id": DATASET_ID,
        "data_format": "hdf5",
        "minari_version": "0.5.4",
        "total_episodes": episodes,
        "total_steps": episodes * steps,
        "observation_space": box(OBS_SIZE, float("inf"), "float64"),
        "action_space": box(ACT_SIZE, 1.0, "float32"),
    }


def memory_bytes(kind: str) -> int:
    """``VmHWM`` (the most it ever held), ``RssAnon`` or the like of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {kind} in /proc/self/status")


def surroundings(root: Path) -> dict[str, str]:
    """The environment of a process whose data sets and cache are in a folder."""
    places = {"MINARI_DATASETS_PATH": str(root / "minari"), "XDG_CACHE_HOME": str(root / "cache")}
    return os.environ | places


def measure() -> dict[str, float]:
    """Load once in this process; imports are neither timed nor counted."""
    import time

    from bcq_exp.data.datasets import load_minari

    before, start = memory_bytes("VmHWM"), time.perf_counter()
    dataset = load_minari(DATASET_ID, download=False)
    seconds = time.perf_counter() - start
    growth = memory_bytes("VmHWM") - before
    size = sum(array.nbytes for array in dataset.transitions.arrays().values())
    return {
        "transitions": len(dataset.transitions),
        "seconds": seconds,
        "arrays_mb": size / 1e6,
        "peak_growth_mb": growth / 1e6,
        "ratio": growth / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", help="where the temporary folder goes")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure()))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        write_dataset(root / "minari", args.episodes, args.steps)
        env = surroundings(root)
        command = [sys.executable, __file__, "--measure"]
        for name in ("first load (HDF5)", "second load (cache)"):
            result = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(result.stdout)
            print(name, {key: round(value, 2) for key, value in figures.items()})


if __name__ == "__main__":
    main()
