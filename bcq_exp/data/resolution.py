"""Check that float32, in which training computes, still distinguishes recorded numbers."""

from collections.abc import Mapping

import numpy as np

_SAMPLED = 256  # steps of an episode that are checked
_MOST_LOST = 0.5  # of a column's changes, which float32 may lose without a note
# A column is noted only if the lost changes add up to this share of all its movement: fainter ones,
# such as the noise of a quantity that is switched, are too small for a network to use anyway.
_LEAST_MOVEMENT = 1e-3
_ROUNDING = 64  # units in the last place of float64: smaller changes are errors of rounding


class Resolution:
    """Counts the changes of recorded columns, and those that float32 cannot represent."""

    def __init__(self) -> None:
        # of each array: for each column, the number of changes and of lost ones, and the sums of
        # their sizes (4, D); and the largest magnitude (D,) at which a change was lost
        self._sums: dict[str, np.ndarray] = {}
        self._largest: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)

    def see(
        self,
        arrays: Mapping[str, np.ndarray],
        before: np.ndarray | None = None,
        most: int = _SAMPLED,
    ) -> None:
        """Update with recorded numbers ``(T,)`` or ``(T, D)`` by name.

        Args:
            before: the rows whose next row is their successor; ``None`` for one episode, where all
                but the last are.
            most: the number of them to check, drawn at random: every n-th could miss a period.
        """
        rows = np.arange(max(len(v) for v in arrays.values()) - 1) if before is None else before
        if len(rows) > most:
            rows = np.sort(self._rng.choice(rows, most))
        for name, values in arrays.items():
            if values.dtype.kind in "iuf" and not np.can_cast(values.dtype, np.float32):
                own = rows[rows < len(values) - 1]
                if len(own):
                    self._update(name, values[own], values[own + 1])

    def _update(self, name: str, before: np.ndarray, after: np.ndarray) -> None:
        """Count the changes of numbers ``(N,)`` or ``(N, D)`` between steps and the next ones."""
        before, after = before.astype(np.float64), after.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite numbers are refused later
            change, sizes = np.abs(after - before), (np.abs(before), np.abs(after))
            largest = np.maximum(*sizes)
            apart = np.spacing(np.minimum(*sizes).astype(np.float32))  # numbers of float32 there
            is_change = change > _ROUNDING * np.spacing(largest)
            is_lost = is_change & (change < apart)
            sums = [m.sum(0) for m in (is_change, is_lost, change * is_change, change * is_lost)]
            self._sums[name] = self._sums.get(name, 0) + np.array(sums)
            at = (largest * is_lost).max(0)
        self._largest[name] = np.maximum(self._largest.get(name, at), at)

    def notes(self) -> tuple[str, ...]:
        """A sentence for each column most of whose changes float32 loses."""
        notes = []
        for name, sums in self._sums.items():
            count, num_lost, total, lost = sums.reshape(4, -1)
            largest = np.ravel(self._largest[name])
            is_lost = (num_lost > _MOST_LOST * count) & (lost >= _LEAST_MOVEMENT * total)
            for i in np.flatnonzero(is_lost):
                column = f"{name}[{i}]" if sums.ndim > 1 else name
                notes.append(
                    f"{column}: float32 cannot represent {num_lost[i] / count[i]:.0%} of its "
                    f"changes from one step to the next: near {largest[i]:.6g} its numbers are "
                    f"{np.spacing(np.float32(largest[i])):.3g} apart; record it relative to an "
                    "origin, such as seconds since the start of the episode, and do so in the "
                    "environment too"
                )
        return tuple(notes)
