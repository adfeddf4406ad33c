"""Which of an algorithm's statistics mean trouble, for whoever looks at runs afterwards."""

from __future__ import annotations

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
    """

    kind: str
    statistics: tuple[str, ...]
    below: float | None = None
    above: float | None = None
    diverging: bool = False


def diverging_q(*statistics: str) -> Watch:
    """The mean values that an algorithm reports, watched for growing without end."""
    return Watch("diverging Q", statistics, diverging=True)


# in nats: the posterior is the prior, and the latent says nothing
DEAD_VAE = Watch("dead VAE", ("kl_loss",), below=1e-3)
