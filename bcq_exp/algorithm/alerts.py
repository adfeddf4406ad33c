"""Which of an algorithm's statistics mean trouble, for whoever looks at runs afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """Statistics that are trouble where the last one is out of bounds, or where they diverge.

    Args:
        kind: the trouble, in a few words.
        statistics: names, as in ``train.csv``.
        below, above: trouble where the last value is; ``None`` is no bound.
        diverging: trouble where the largest of them, in absolute value, is not finite or keeps
            growing several times over (:mod:`bcq_exp.analysis.findings` says how much).
        remedy: keys to try, as a user gives them.
    """

    kind: str
    statistics: tuple[str, ...]
    below: float | None = None
    above: float | None = None
    diverging: bool = False
    remedy: str = ""

    def out_of_bounds(self, row: Mapping[str, float | None]) -> Iterator[str]:
        """Which statistics of a logged row are below or above their bounds, in words."""
        for name in self.statistics:
            value = row.get(name)
            if value is None:
                continue
            if self.below is not None and value < self.below:
                yield f"{name} {value:.3g}, below {self.below:.3g}"
            if self.above is not None and value > self.above:
                yield f"{name} {value:.3g}, above {self.above:.3g}"


def diverging_q(*statistics: str) -> Watch:
    """The mean values that an algorithm reports, watched for growing without end."""
    return Watch("diverging Q", statistics, diverging=True)


# in nats: the posterior is the prior, and the latent carries no information about the action
DEAD_VAE = Watch(
    "dead VAE",
    ("kl_loss",),
    below=1e-3,
    remedy="trainer.normalize_obs=true or vae.kl_weight=0.1",
)
