"""What is refused, where it is said to be, and what passes although it is odd."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from bcq_exp.data.transitions import DataError, Transitions
from bcq_exp.data.validation import as_flags, check_ends, validated
from bcq_exp.errors import UserError
from tests.data.test_transitions import make

LENGTHS = np.array([2, 3])
ANY = Box(-np.inf, np.inf, (2,), np.float64)
UNIT = Box(-1.0, 1.0, (1,), np.float32)


def check(data: Transitions, observations: Box = ANY, actions: Box = UNIT) -> None:
    lengths = LENGTHS if len(data) == 5 else np.array([len(data)])
    validated("toy", data, observations, actions, lengths, "mend it")


def test_good_data_passes():
    check(make())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["obs", "act", "rew", "obs_next"])
def test_a_value_that_is_not_finite_is_placed(name, value):
    array = getattr(make(), name).copy()
    array[3] = value
    with pytest.raises(DataError, match=f"'toy': {name} is {value} at episode 1, step 1;"):
        check(make(**{name: array}))


def test_actions_must_lie_in_their_space_but_for_rounding():
    act = np.zeros((5, 1), np.float32)
    act[2] = 1 + 1e-5
    check(make(act=act))
    act[2] = -1.001
    message = r"act\[0\] is -1.001 at episode 1, step 0; .* \[-1, 1\]; mend it"
    with pytest.raises(DataError, match=message):
        check(make(act=act))


@pytest.mark.parametrize("name", ["obs", "obs_next"])
@pytest.mark.parametrize(
    ("low", "high", "within", "outside"),
    [
        (-1.0, 8.0, 8.00005, 8.001),
        (0.0, np.inf, 1e30, -0.001),
        (0.0, np.inf, -5e-6, -0.001),
        (-np.inf, 1000.0, 1000.009, 1000.1),
        (1000.0, 1000.001, 1000.0011, 1000.01),  # float32 has nothing between 1000 and 1000.00006
        (5.0, 5.0, 5.0000005, 5.00001),
        (-1e308, 1e308, 3e38, None),
        (-np.inf, np.inf, -3e38, None),
    ],
)
def test_observations_must_lie_in_their_space_but_for_rounding(name, low, high, within, outside):
    space = Box(np.array([-np.inf, low]), np.array([np.inf, high]), dtype=np.float64)
    inside = 0.0 if low <= 0 <= high else min(max(low, -1.0), high)
    values = np.full((5, 2), inside, np.float32)
    others = dict.fromkeys(("obs", "obs_next"), np.full((5, 2), inside, np.float32))
    values[3, 1] = within
    check(make(**(others | {name: values})), space)
    if outside is not None:
        values[3, 1] = outside
        with pytest.raises(DataError, match=rf"{name}\[1\] is .* at episode 1, step 1; its space"):
            check(make(**(others | {name: values})), space)


@pytest.mark.parametrize("row", [0, 63, 64, 127, 128, 191, 192, 199])
def test_every_row_and_column_counts(row):
    for column in range(2):
        obs = np.zeros((200, 2), np.float32)
        obs[row, column] = 2.0
        with pytest.raises(DataError, match=rf"obs\[{column}\] is 2 at episode 0, step {row};"):
            check(make(200, obs=obs), Box(-1.0, 1.0, (2,)))


def test_sizes_must_be_those_of_the_spaces():
    with pytest.raises(DataError, match="act has 1 numbers a step, its space has 2"):
        check(make(), actions=Box(-1, 1, (2,)))
    with pytest.raises(DataError, match="obs has 2 numbers a step, its space has 3"):
        check(make(), Box(-1, 1, (3,)))


def test_empty_data_is_refused():
    with pytest.raises(DataError, match="'toy' holds no transitions"):
        check(make()[:0])


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([0, 1, np.nan]), "is nan at row 2"),
        (np.array([0, 2.5, 1]), "is 2.5 at row 1"),
        (np.array([-1, 0]), "is -1 at row 0"),
        (np.array([0, 64, 1], np.uint8).view(bool), "is 64 at row 1"),
        (np.array([b"0", b"1"]), "holds values of type |S1"),
        (np.array([0j, 1j]), "holds values of type complex128"),
        (np.array([False, True], object), "holds values of type object"),
    ],
)
def test_flags_are_no_or_yes(values, found):
    with pytest.raises(DataError) as caught:
        as_flags("toy", "terminals", values, lambda row: f"row {row}")
    assert f"'toy': terminals {found}" in str(caught.value)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float64])
def test_flags_of_any_number_type(dtype):
    flags = as_flags("toy", "terminals", np.array([0, 1, 0], dtype), str)
    assert flags.dtype == bool
    assert flags.tolist() == [False, True, False]


def test_an_episode_ends_once():
    last = np.array([False, True, False, False, False, True])
    lengths = np.array([0, 2, 0, 4])
    check_ends("toy", {"terminated": last, "truncated": last & False}, lengths)
    with pytest.raises(DataError, match="truncated is true at episode 3, step 1, which is not"):
        check_ends("toy", {"terminated": last, "truncated": np.arange(6) == 3}, lengths)


def test_data_errors_are_user_errors():
    assert issubclass(DataError, UserError)
