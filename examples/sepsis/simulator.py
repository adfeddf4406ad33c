"""A made-up intensive care unit: patients with septic shock, and the doctors who treat them.

Every four hours a doctor reads the vital signs and chooses one of five doses of a vasopressor. A
dose raises the blood pressure. Too low a pressure damages the organs, and so does a dose that is
higher than the pressure needs. All numbers are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

DOSES = 5  # 0 is none
MOST_STEPS = 20  # of four hours
WARDS = ("emergency", "medical", "surgical")
OBSERVATIONS = ("age", "male", "ward", "heart_rate", "pressure", "lactate", "temperature")
RISE = np.array([0.0, 9.0, 16.0, 22.0, 26.0])  # of the pressure by each dose, in mmHg
WANTED = 65.0  # mmHg, below which organs are damaged

Doctor = Callable[[dict[str, Any], np.random.Generator], int]


class Patient:
    """One stay.

    The severity of the illness is not recorded. The vital signs are noisy consequences of it.

    Attributes:
        steps: doses so far.
        is_over: whether the patient has left, or died.
        outcome: 1 for a survivor, -1 for a death; None while the stay lasts.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.age = round(float(np.clip(rng.normal(64, 13), 20, 95)))
        self.is_male = bool(rng.random() < 0.56)
        self.ward = int(rng.choice(len(WARDS), p=[0.5, 0.3, 0.2]))
        frailty = 0.015 * (self.age - 64) + (0.0, 0.15, -0.15)[self.ward]
        self._severity = float(np.clip(rng.normal(2.5 + frailty, 0.5), 1.0, 4.0))
        self._pressure = self._resting() + float(rng.normal(0, 4))
        self._lactate = float(np.clip(1.0 + 0.9 * self._severity + rng.normal(0, 0.5), 0.6, 9.0))
        self.steps = 0
        self.is_over = False
        self.outcome: int | None = None

    def vitals(self) -> dict[str, Any]:
        """A row of the table: what a doctor sees."""
        noise = self._rng.normal(size=3)
        return {
            "age": self.age,
            "male": self.is_male,
            "ward": WARDS[self.ward],
            "heart_rate": round(72 + 11 * self._severity + 5 * float(noise[0])),
            "pressure": round(self._pressure + 1.5 * float(noise[1])),
            "lactate": round(self._lactate, 1),
            "temperature": round(36.8 + 0.5 * self._severity + 0.3 * float(noise[2]), 1),
        }

    def treat(self, dose: int) -> None:
        """Four hours under a dose."""
        rng = self._rng
        wanted = self._resting() + float(RISE[dose])
        self._pressure += 0.7 * (wanted - self._pressure) + float(rng.normal(0, 2.5))
        too_low = min(max(0.0, WANTED - self._pressure) / 10, 2.0)
        too_much = min(max(0.0, self._pressure - WANTED - 6) / 10, 2.0) if dose else 0.0
        harm = 0.6 * too_low + 0.9 * too_much
        self._severity += harm - 0.4 + float(rng.normal(0, 0.15))
        self._severity = float(np.clip(self._severity, 0.0, 5.0))
        self._lactate += 0.4 * (1.0 + 0.9 * self._severity + 0.8 * too_low - self._lactate)
        self.steps += 1
        risk = 0.6 / (1 + np.exp(-2.5 * (self._severity - 3.4)))
        has_died = self.steps >= 3 and rng.random() < risk
        is_well = self._severity < 1.0 and dose <= 3 and self.steps >= 4
        self.is_over = bool(has_died or is_well or self.steps == MOST_STEPS)
        if self.is_over:
            self.outcome = -1 if has_died else 1

    def _resting(self) -> float:
        """The pressure without a drug."""
        return 79 - 11 * self._severity


def cautious(vitals: dict[str, Any], rng: np.random.Generator) -> int:
    """A doctor who treats late and little."""
    return _dose((60 - vitals["pressure"]) / 7 + 0.4 * (vitals["lactate"] - 3) + rng.normal(0, 0.6))


def eager(vitals: dict[str, Any], rng: np.random.Generator) -> int:
    """A doctor who treats early and much."""
    return _dose((78 - vitals["pressure"]) / 6 + 0.5 * (vitals["lactate"] - 1) + rng.normal(0, 0.6))


def _dose(wish: float) -> int:
    return int(np.clip(round(wish), 0, DOSES - 1))


DOCTORS: dict[str, Doctor] = {"cautious": cautious, "eager": eager}
