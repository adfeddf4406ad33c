"""Amounts in words."""

import pytest

from bcq_exp.formatting import clock, columns, counted, numbers


def test_one_thing_is_singular():
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [counted(n, "policy", "policies") for n in (1, 2)] == ["1 policy", "2 policies"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_a_time_is_shown_as_a_clock_shows_it(seconds, shown):
    assert clock(seconds) == shown


def test_columns_are_aligned_at_the_right():
    assert columns([["key", "n"], ["1.5", "10"]]) == ["key   n", "1.5  10"]


def test_numbers_have_decimals_enough_for_the_largest():
    assert numbers(-1326.25, 3.14159) == ["-1326.2", "3.1"]
    assert numbers(3.14159, 0.5) == ["3.14", "0.50"]
    assert numbers(0.12, 0.14, -0.9) == ["0.120", "0.140", "-0.900"]
    assert numbers(0.0, None) == ["0.0", ""]
