"""Write log.csv: 600 stays, what two doctors did, and how the stays ended.

python examples/sepsis/make_data.py
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from simulator import DOCTORS, OBSERVATIONS, Patient

SEED, NUM_STAYS = 0, 600
COLUMNS = ("stay_id", "hour", *OBSERVATIONS, "doctor", "dose", "outcome")


def stays(seed: int, num_stays: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each stay. Its doctor is drawn at random; its last row has the outcome."""
    for number in range(num_stays):
        rng = np.random.default_rng([seed, number])
        patient = Patient(rng)
        doctor = str(rng.choice(list(DOCTORS)))
        rows = []
        while not patient.is_over:
            vitals = patient.vitals()
            dose = DOCTORS[doctor](vitals, rng)
            patient.treat(dose)
            row = {"stay_id": number + 1, "hour": 4 * len(rows), "doctor": doctor}
            rows.append({**row, **vitals, "dose": dose, "outcome": patient.outcome})
        yield rows


def table(seed: int = SEED, num_stays: int = NUM_STAYS) -> str:
    """The content of the file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for rows in stays(seed, num_stays):
        writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes the table of the example.")
    here = Path(__file__).with_name("log.csv")
    parser.add_argument("path", nargs="?", type=Path, default=here, help=f"({here.name}, here)")
    parser.parse_args().path.write_text(table())
