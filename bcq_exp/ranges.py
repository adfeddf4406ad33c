"""Allowed values of parameters, shared by constructors and the configuration's schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class Range:
    """An interval of numbers, open where ``low_open`` or ``high_open`` says so."""

    low: float = -float("inf")
    high: float = float("inf")
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, x: float) -> bool:
        try:
            if not isfinite(x):
                return False
        except (OverflowError, TypeError):  # an integer beyond every float; no number
            return False
        above = x > self.low if self.low_open else x >= self.low
        below = x < self.high if self.high_open else x <= self.high
        return above and below

    def __str__(self) -> str:
        if self.low == -float("inf") and self.high == float("inf"):
            return "that is finite"
        if self.high == float("inf"):
            return f"{'above' if self.low_open else 'at least'} {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"in {left}{self.low:g}, {self.high:.10g}{right}"


@dataclass(frozen=True)
class OneOf:
    """A choice among a few values; ``reason`` explains why there are no others."""

    values: tuple[Any, ...]
    reason: str = ""

    def __contains__(self, x: Any) -> bool:
        return any(x is v or (x == v and type(x) is type(v)) for v in self.values)

    def __str__(self) -> str:
        names = ["null" if value is None else str(value).lower() for value in self.values]
        words = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        return f"{words} ({self.reason})" if self.reason else words


@dataclass(frozen=True)
class Matching:
    """A string of a given form."""

    pattern: str
    words: str

    def __contains__(self, x: Any) -> bool:
        return isinstance(x, str) and re.fullmatch(self.pattern, x) is not None

    def __str__(self) -> str:
        return self.words


PATH = Matching(r"(?s).*\S.*", "a path that is not empty")
FILM = Matching(r".+\.(gif|mp4)", "a path ending in .gif or .mp4")
DEVICE = Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")

LONGEST_WANDB_TAG, LONGEST_WANDB_NAME = 64, 128  # characters; W&B refuses longer values
WANDB_TAG = Matching(rf"(?s).{{1,{LONGEST_WANDB_TAG}}}", "1 to 64 characters (W&B's limit)")
WANDB_NAME = Matching(rf"(?s).{{1,{LONGEST_WANDB_NAME}}}", "1 to 128 characters (W&B's limit)")
WANDB_PROJECT = Matching(
    rf"[^/\\#?%:]{{1,{LONGEST_WANDB_NAME}}}",
    r"1 to 128 characters, none of / \ # ? % : (W&B's limit)",
)
WANDB_ENTITY = Matching(
    rf"[^\s/]{{1,{LONGEST_WANDB_NAME}}}",
    "the name of a W&B user or team, without spaces or slashes",
)

Allowed = Range | OneOf | Matching
COUNT = Range(low=1)
FINITE = Range()
NATURAL = Range(low=0)
SEED = Range(0, 2**32 - 1)  # taken by every generator
THREADS = Range(1, 1024)  # a million would crash
FRACTION = Range(low=0, high=1)
POSITIVE = Range(low=0, low_open=True)
SHARE = Range(0, 1, low_open=True, high_open=True)

# by the paper's symbol, or the parameter's name
GAMMA = LMBDA = FRACTION
TAU = Range(0, 1, low_open=True)
BINS = Range(low=2)
THRESHOLD = FRACTION
PHI = KL_WEIGHT = ALPHA = POLICY_NOISE = NOISE_CLIP = TEMPERATURE = CQL_ALPHA = NATURAL
LOGITS_PENALTY = NATURAL
LATENT_CLIP = ADVANTAGE_CLIP = POSITIVE
EXPECTILE = SHARE
DECAY_RATE = Range(0, 1, high_open=True)  # of an optimizer's running means
EPSILON = Range(0, 1, high_open=True)  # share of random actions in a softened policy
BOUND_METHODS = OneOf(("clip", "tanh", None))
CONSTANT, LINEAR, COSINE = "constant", "linear", "cosine"
FQE = "fqe"  # the objective that needs no environment
SCHEDULES = OneOf((CONSTANT, LINEAR, COSINE))  # of a learning rate


def require(name: str, value: Any, allowed: Allowed) -> None:
    """Validate a constructor's argument.

    Raises:
        ValueError: one line with the name, what is allowed, and the value.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {allowed}, not {value}")
