"""What a range holds: its ends, no infinity, and values of the type that it names."""

from math import inf, nan

import pytest

from bcq_exp.ranges import (
    BINS,
    BOUND_METHODS,
    COUNT,
    DECAY_RATE,
    FRACTION,
    NATURAL,
    POSITIVE,
    SEED,
    SHARE,
    TAU,
    THREADS,
    WANDB_NAME,
    WANDB_TAG,
    OneOf,
    require,
)

HOLDS = [
    (COUNT, (1, 10**300), (0, -1)),
    (FRACTION, (0, 1), (-1e-9, 1 + 1e-9)),
    (DECAY_RATE, (0, 1 - 1e-9), (-1e-9, 1)),
    (SEED, (0, 2**32 - 1), (-1, 2**32)),
    (THREADS, (1, 1024), (0, 1025)),
    (WANDB_TAG, ("a", "\n" * 64), ("", "a" * 65, 1)),
    (WANDB_NAME, ("a", "a" * 128), ("", "a" * 129)),
    (SHARE, (1e-9, 0.5, 1 - 1e-9), (0, 1, -0.1, 1.1)),
    (TAU, (1e-9, 1), (0, 1.1)),
    (POSITIVE, (1e-300, 1e300), (0, -1, inf, nan, 10**400)),
    (NATURAL, (0, 10**300), (-1, -inf, inf, nan, 10**400)),
    (BINS, (2, 3), (1, 0)),
    (BOUND_METHODS, ("clip", "tanh", None), ("Clip", "", "null", 0)),
    (OneOf((0, False)), (0, False), (0.0, None)),
    (OneOf((1,)), (1,), (True, 1.0)),
]


@pytest.mark.parametrize(("allowed", "inside", "outside"), HOLDS, ids=[str(x[0]) for x in HOLDS])
def test_a_range_has_its_ends_and_no_more(allowed, inside, outside):
    for value in inside:
        require("x", value, allowed)
    for value in outside:
        with pytest.raises(ValueError, match="^x is .*, not "):
            require("x", value, allowed)
