"""The map between the policy's unit and the environment's: its table, row by row."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from bcq_exp.algorithm.actions import ActionMap, is_far_from_one

BOXES = {
    "symmetric": Box(-2.0, 2.0, (2,), np.float64),
    "asymmetric": Box(np.array([-1.0, 4.0]), np.array([3.0, 10.0]), dtype=np.float64),
}
CASES = [(scaling, method) for scaling in (False, True) for method in (None, "clip", "tanh")]
UNIT = np.array([[-3.0, 0.5], [0.0, 0.0], [0.9, 7.0], [-0.2, 30.0]])


def by_hand(space, scaling, method, act):
    if not scaling:
        return act if method is None else np.clip(act, space.low, space.high)
    act = {"tanh": np.tanh, "clip": lambda x: np.clip(x, -1, 1), None: lambda x: x}[method](act)
    return space.low + (space.high - space.low) * (act + 1) / 2


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("scaling", "method"), CASES)
def test_actions_are_mapped_by_scaling_and_bound_method(box, scaling, method):
    space = BOXES[box]
    actions = ActionMap(space, action_scaling=scaling, bound_method=method)
    expected = by_hand(space, scaling, method, UNIT)
    np.testing.assert_allclose(actions.to_env(UNIT), expected, rtol=1e-12)
    for row, mapped in zip(UNIT, expected, strict=True):  # (A,) as well as (..., A)
        np.testing.assert_allclose(actions.to_env(row), mapped, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("scaling", "method"), CASES)
def test_there_and_back_is_the_identity_on_the_space(box, scaling, method, dtype):
    space = BOXES[box]
    actions = ActionMap(space, action_scaling=scaling, bound_method=method)
    act = np.random.default_rng(0).uniform(space.low, space.high, (500, 2)).astype(dtype)
    unit = actions.from_env(act)
    assert unit.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(actions.to_env(unit), act, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("scaling", "method"), CASES)
def test_whole_numbers_are_mapped_as_floats_are(scaling, method):
    actions = ActionMap(BOXES["asymmetric"], action_scaling=scaling, bound_method=method)
    whole = np.array([[0, 1]])
    for maps in (actions.to_env, actions.from_env):
        np.testing.assert_array_equal(maps(whole), maps(whole.astype(float)))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("scaling", "method"), CASES)
def test_the_bounds_of_the_space_are_within_the_units_range(box, scaling, method):
    space = BOXES[box]
    actions = ActionMap(space, action_scaling=scaling, bound_method=method)
    low, high = actions.range
    edges = np.stack([space.low, space.high])
    np.testing.assert_allclose(actions.from_env(edges), np.stack([low, high]), rtol=1e-7)
    np.testing.assert_allclose(actions.to_env(np.stack([low, high])), edges, atol=1e-5)


@pytest.mark.parametrize("method", [None, "clip", "tanh"])
@pytest.mark.parametrize("box", BOXES)
def test_without_scaling_no_action_of_the_space_changes(box, method):
    space = BOXES[box]
    act = np.random.default_rng(0).uniform(space.low, space.high, (500, 2))
    assert np.abs(act).max() > 1.5
    actions = ActionMap(space, bound_method=method)
    assert np.array_equal(actions.to_env(act), act)
    assert np.array_equal(actions.from_env(act), act)


@pytest.mark.parametrize("method", ["clip", "tanh"])
def test_no_action_leaves_the_space(method):
    # low + (high - low) rounds to more than high
    space = Box(np.float32(-0.7), np.float32(0.1), (1,), np.float32)
    assert space.low + (space.high - space.low) > space.high
    actions = ActionMap(space, action_scaling=True, bound_method=method)
    act = actions.to_env(np.linspace(-20, 20, 2001, dtype=np.float32)[:, None])
    assert all(space.contains(row) for row in act)


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 2]), Dict(a=BOXES["symmetric"])])
def test_another_space_is_a_type_error(space):
    with pytest.raises(TypeError, match=r"continuous action space \(Box\)"):
        ActionMap(space)


def test_an_unknown_method_is_a_value_error():
    with pytest.raises(ValueError, match="one of clip, tanh, null, not relu"):
        ActionMap(BOXES["symmetric"], bound_method="relu")


def test_scaling_needs_bounds():
    with pytest.raises(ValueError, match="needs bounds"):
        ActionMap(Box(-np.inf, 1.0, (2,)), action_scaling=True)


@pytest.mark.parametrize(
    ("low", "high", "far"),
    [
        (-1.0, 1.0, False),
        (-0.4, 0.4, False),
        (-3.0, 3.0, False),
        (0.0, 1.0, False),
        (50.0, 150.0, True),
        (-1e-3, 1e-3, True),
        (9.9, 10.0, True),
        (-20.0, 1.0, True),
    ],
)
def test_which_action_bounds_are_far_from_one(low, high, far):
    assert is_far_from_one(Box(low, high, (1,))) is far
    both = Box(np.float32([-1, low]), np.float32([1, high]))
    assert is_far_from_one(both) is far
