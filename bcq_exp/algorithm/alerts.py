"""Rules by which an algorithm's metrics are flagged as trouble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """A rule that flags metrics out of bounds or diverging.

    Args:
        kind: the trouble, in a few words.
        statistics: the metrics' names, as in ``train.csv``.
        below, above: flag values beyond these bounds; ``None`` is no bound. A run is in trouble
            after ``training.run.LASTING_STEPS`` steps out of bounds.
        diverging: flag metrics whose largest absolute value is not finite or keeps growing
            (:mod:`bcq_exp.analysis.findings` defines by how much).
        remedy: overrides to try, as typed on a command line.
    """

    kind: str
    statistics: tuple[str, ...]
    below: float | None = None
    above: float | None = None
    diverging: bool = False
    remedy: str = ""

    def out_of_bounds(self, row: Mapping[str, float | None]) -> Iterator[str]:
        """Yield a description of each metric of a logged row that is out of bounds."""
        for name in self.statistics:
            value = row.get(name)
            if value is None:
                continue
            if self.below is not None and value < self.below:
                yield f"{name} {value:.3g}, below {self.below:.3g}"
            if self.above is not None and value > self.above:
                yield f"{name} {value:.3g}, above {self.above:.3g}"


def diverging_q(*statistics: str) -> Watch:
    """Return a rule that flags mean Q values that diverge."""
    return Watch("diverging Q", statistics, diverging=True)


# in nats: the posterior is the prior, and the latent carries no information about the action
DEAD_VAE = Watch(
    "dead VAE",
    ("kl_loss",),
    below=1e-3,
    remedy="trainer.normalize_obs=true or vae.kl_warmup=10000",
)
