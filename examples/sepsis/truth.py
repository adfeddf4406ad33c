"""The true mean outcome of a sweep's policies, next to the estimates of ``bcq_exp select``.

    python examples/sepsis/truth.py multirun/sepsis

The simulator that made the table knows it. Nobody who has only a table does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from make_data import stays
from simulator import Patient

from bcq_exp import load_policy

ESTIMATES = {"fqe": "fitted Q", "dr": "doubly robust", "pdwis": "PDWIS", "wis": "WIS"}
SEED = 1  # of patients who are not in the table
Row = dict[str, Any]


def outcomes_of_doctors(num_patients: int) -> list[int]:
    """1 or -1 of each patient under the behaviour policy."""
    return [rows[-1]["outcome"] for rows in stays(SEED, num_patients)]


def outcomes(act: Callable[[list[Row]], np.ndarray], num_patients: int) -> list[int]:
    """1 or -1 of each patient under a policy of several rows at once."""
    patients = [Patient(np.random.default_rng([SEED, k])) for k in range(num_patients)]
    while running := [patient for patient in patients if not patient.is_over]:
        doses = act([patient.vitals() for patient in running])
        for patient, dose in zip(running, doses, strict=True):
            patient.treat(int(dose))
    return [patient.outcome for patient in patients]


def policy_of(run: Path) -> Callable[[list[Row]], np.ndarray]:
    """The policy of a run, of rows as the table has them."""
    policy = load_policy(run)
    columns = json.loads((run / "summary.json").read_text())["dataset"]["columns"]["observations"]

    def encoded(row: Row) -> list[float]:
        obs: list[float] = []
        for column in columns:
            value = row[column["name"]]
            kinds = column.get("categories")
            obs += [float(value)] if kinds is None else [float(value == kind) for kind in kinds]
        return obs

    return lambda rows: policy.act(np.array([encoded(row) for row in rows], np.float32))


def main() -> None:
    """Print a row for the doctors and one for each policy."""
    parser = argparse.ArgumentParser(description="Prints true values next to estimates.")
    parser.add_argument("sweep", type=Path, help="a folder that `bcq_exp select` has estimated")
    parser.add_argument("num_patients", nargs="?", type=int, default=2000)
    options = parser.parse_args()
    selection = json.loads((options.sweep / "ope" / "selection.json").read_text())
    known = [("doctors", selection["behaviour"], outcomes_of_doctors(options.num_patients))]
    for row in selection["policies"]:
        found = outcomes(policy_of(Path(row["folder"])), options.num_patients)
        known.append((row["run"], row, found))
    width = max(len(name) for name, *_ in known)
    heads = "".join(f"{head:>22}" for head in ESTIMATES.values())
    print(f"{'policy':{width}}{'true value':>18}{heads}{'effective episodes':>20}")
    for name, row, found in known:
        reach = 1.96 * np.std(found) / len(found) ** 0.5
        true = f"{np.mean(found):.2f} ± {reach:.2f}"
        cells = "".join(f"{_interval(row, key):>22}" for key in ESTIMATES)
        print(f"{name:{width}}{true:>18}{cells}{row['ess']:>20.0f}")


def _interval(row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return ""
    return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"


if __name__ == "__main__":
    main()
