"""The true values of a sweep's policies, next to the estimates of ``bcq_exp select``.

    python examples/sepsis/truth.py multirun/sepsis

The simulator that made the table gives them. Without a simulator they stay unknown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from make_data import stays
from simulator import DOSES, Patient

from bcq_exp import load_policy

SEED = 1  # of patients who are not in the table
LINE = "{:{}}{:>20}{:>8}{:>20}{:>20}{:>20}{:>8}{:>10}"
HEADS = ("fitted Q", "true", "doubly robust", "PDWIS", "WIS", "true", "episodes")
Row = dict[str, Any]
Act = Callable[[list[Row]], np.ndarray]


def value_of_doctors(num_patients: int, gamma: float) -> float:
    """The mean discounted outcome under the behaviour policy."""
    found = [rows[-1]["outcome"] * gamma ** (len(rows) - 1) for rows in stays(SEED, num_patients)]
    return float(np.mean(found))


def value(act: Act, num_patients: int, gamma: float, epsilon: float = 0.0) -> float:
    """The same under a policy of several rows at once, a share of whose doses is random."""
    rng = np.random.default_rng(SEED)
    patients = [Patient(np.random.default_rng([SEED, k])) for k in range(num_patients)]
    while running := [patient for patient in patients if not patient.is_over]:
        doses = act([patient.vitals() for patient in running])
        is_random = rng.random(len(running)) < epsilon
        doses = np.where(is_random, rng.integers(DOSES, size=len(running)), doses)
        for patient, dose in zip(running, doses, strict=True):
            patient.treat(int(dose))
    return float(np.mean([each.outcome * gamma ** (each.steps - 1) for each in patients]))


def policy_of(run: Path) -> Act:
    """The policy of a run, of rows as the table has them."""
    policy = load_policy(run)
    columns = json.loads((run / "summary.json").read_text())["dataset"]["columns"]["observations"]

    def encoded(row: Row) -> list[float]:
        obs: list[float] = []
        for column in columns:
            found = row[column["name"]]
            kinds = column.get("categories")
            obs += [float(found)] if kinds is None else [float(found == kind) for kind in kinds]
        return obs

    return lambda rows: policy.act(np.array([encoded(row) for row in rows], np.float32))


def main() -> None:
    """Print a row for the doctors and one for each policy."""
    parser = argparse.ArgumentParser(description="Prints true values next to estimates.")
    parser.add_argument("sweep", type=Path, help="a folder that `bcq_exp select` has estimated")
    parser.add_argument("num_patients", nargs="?", type=int, default=2000, help="(2000)")
    options = parser.parse_args()
    selection = json.loads((options.sweep / "ope" / "selection.json").read_text())
    gamma, epsilon = (selection["settings"][name] for name in ("gamma", "epsilon"))
    num = options.num_patients
    rows = [("doctors", selection["behaviour"], [value_of_doctors(num, gamma)] * 2)]
    for row in selection["policies"]:
        act = policy_of(Path(row["folder"]))
        rows.append((row["run"], row, [value(act, num, gamma, e) for e in (0.0, epsilon)]))
    width = max(len(name) for name, *_ in rows)
    print(LINE.format("", width, "", "", f"{epsilon:.0%} random doses:", "", "", "", "effective"))
    print(LINE.format("policy", width, *HEADS))
    for name, row, (greedy, random) in rows:
        fitted, *others = (_interval(row, key) for key in ("fqe", "dr", "pdwis", "wis"))
        cells = (fitted, f"{greedy:.2f}", *others, f"{random:.2f}", f"{row['ess']:.1f}")
        print(LINE.format(name, width, *cells))
    print(
        f"true values are of {num} new patients, with a standard error of {num**-0.5:.2f} or less"
    )


def _interval(row: Row, key: str) -> str:
    if row[key] is None:
        return ""
    return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"


if __name__ == "__main__":
    main()
