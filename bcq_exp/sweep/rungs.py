"""Successive halving: the steps at which settings are compared, and which continue.

All settings are trained to a first step, the best 1 in eta of them to the next, and so on to the
end (Jamieson and Talwalkar 2016, arXiv:1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcq_exp.errors import UserError


@dataclass(frozen=True)
class Setting:
    """The result of a setting at a rung.

    Args:
        name: its swept overrides.
        value: the mean objective of its seeds; ``None`` if one of them failed.
        rank: 1 is the best.
        goes_on: whether it continues; at the end, whether it is the winner.
    """

    name: str
    value: float | None
    rank: int
    goes_on: bool


@dataclass(frozen=True)
class Rung:
    """A step at which settings were compared, with the settings, the best first."""

    step: int
    settings: tuple[Setting, ...]

    @property
    def continuing(self) -> list[str]:
        """Return the names of the settings that continue, in order."""
        return [setting.name for setting in self.settings if setting.goes_on]


def rung_steps(num_steps: int, eval_every: int, shares: Sequence[float]) -> list[int]:
    """Return the steps of evaluations at which settings are compared, the end last.

    Args:
        shares: shares of ``num_steps``, in (0, 1).

    Raises:
        UserError: if no evaluation is early enough.
    """
    evaluated = {max(1, round(share * num_steps / eval_every)) * eval_every for share in shares}
    before = sorted(step for step in evaluated if step < num_steps)
    if not before:
        raise UserError(
            f"trainer.eval_every={eval_every}: with trainer.num_steps={num_steps}, no evaluation "
            "is early enough to stop runs by; give at most "
            f"{max(1, int(min(shares) * num_steps))}"
        )
    return [*before, num_steps]


def rung_sizes(num_settings: int, eta: int, num_rungs: int) -> list[int]:
    """Return the number of settings trained to each rung: 1 in eta continues, at least one."""
    return [max(1, num_settings // eta**i) for i in range(num_rungs)]


def compare(step: int, values: Mapping[str, float | None], num_kept: int) -> Rung:
    """Rank settings by their values; ties keep their order.

    Settings that failed or whose value is NaN stop.
    """
    known = {n: value for n, value in values.items() if value is not None and math.isfinite(value)}
    best = sorted(known, key=lambda name: -known[name])
    ranked = enumerate([*best, *(name for name in values if name not in known)], 1)
    settings = (
        Setting(n, known.get(n), rank, rank <= num_kept and n in known) for rank, n in ranked
    )
    return Rung(step, tuple(settings))
