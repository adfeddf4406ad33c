from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box

from bcq_exp.data.spaces import check_action_space, check_continuous, flat_box, observation_leaves
from bcq_exp.data.transitions import DataError

NESTED = spaces.Dict(
    {
        "z": Box(-1, 1, (2,), np.float32),
        "a": spaces.Tuple([Box(0, 1, (2, 2), np.float64), Box(-3, 3, (), np.float32)]),
        "m": spaces.Dict({"k": Box(0, 255, (3,), np.uint8)}),
    }
)


@pytest.mark.parametrize(
    "space", [NESTED, spaces.Tuple([NESTED, Box(-1, 1, (1,))]), Box(-1, 1, (2, 3))]
)
def test_leaves_are_in_the_order_of_gymnasiums_flatten(space):
    space.seed(0)
    leaves = observation_leaves("toy", space)
    sample = space.sample()
    parts = np.concatenate([np.ravel(leaf.pick(sample)) for leaf in leaves])
    assert np.array_equal(parts, spaces.flatten(space, sample))
    assert [np.size(leaf.pick(sample)) for leaf in leaves] == [leaf.size for leaf in leaves]
    assert flat_box(space).shape == parts.shape


def test_leaf_names():
    names = [leaf.name for leaf in observation_leaves("toy", NESTED)]
    assert names == ["a.0", "a.1", "m.k", "z"]
    assert observation_leaves("toy", Box(-1, 1, (2,)))[0].name == "observation"


def test_an_ordered_dict_keeps_its_own_order():
    space = spaces.Dict(OrderedDict(z=Box(-1, 1, (1,)), a=Box(-1, 1, (2,))))
    assert [leaf.name for leaf in observation_leaves("toy", space)] == ["z", "a"]


@pytest.mark.parametrize(
    "leaf",
    [
        spaces.Discrete(3),
        spaces.Text(5),
        spaces.MultiBinary(2),
        spaces.MultiDiscrete([2, 3]),
        spaces.Sequence(Box(-1, 1, (1,))),
        Box(0, 255, (8, 8, 3), np.uint8),
        Box(0, 255, (8, 8), np.uint8),
    ],
)
def test_other_leaves_are_refused_by_name(leaf):
    space = spaces.Dict({"good": Box(-1, 1, (1,)), "in": spaces.Tuple([leaf])})
    with pytest.raises(DataError, match=r"'toy': observation 'in.0' is .*; allowed are"):
        observation_leaves("toy", space)
    with pytest.raises(DataError, match=r"observation 'observation' is .*; allowed are"):
        observation_leaves("toy", leaf)


def test_an_empty_dict_is_refused():
    with pytest.raises(DataError, match="is empty"):
        observation_leaves("toy", spaces.Dict({}))


def test_a_bounded_box_is_the_action_space():
    space = Box(-2, 2, (3,))
    assert check_action_space("toy", space) is space
    assert check_continuous("toy", space) is space


def test_discrete_actions_are_a_space_but_not_a_continuous_one():
    space = spaces.Discrete(2)
    assert check_action_space("toy", space) is space
    with pytest.raises(DataError, match=r"is Discrete\(2\); it must be a 1-D Box of floats$"):
        check_continuous("toy", space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(1), r"is Discrete\(1\); at least 2 actions are needed"),
        (spaces.MultiDiscrete([2, 3]), "must be a 1-D Box of floats or Discrete"),
        (spaces.Dict({"a": Box(-1, 1, (1,))}), "must be a 1-D Box of floats or Discrete"),
        (Box(-1, 1, (2, 2)), "must be a 1-D Box of floats"),
        (Box(0, 5, (1,), np.int64), "must be a 1-D Box of floats"),
        (Box(-np.inf, 1, (1,)), "finite bounds"),
        (Box(1.0, 1.0, (1,)), "low < high"),
        (None, "must be a 1-D Box of floats"),
    ],
)
def test_other_action_spaces_are_refused(space, message):
    with pytest.raises(DataError, match=message):
        check_action_space("toy", space)


def test_bounds_that_are_nan_are_refused():
    space = Box(-1.0, 1.0, (2,))
    space.low[1] = np.nan
    with pytest.raises(DataError, match=r"Box\(nan..1, \(2,\), float32\) has bounds that are NaN"):
        observation_leaves("toy", spaces.Dict({"a": space}))
