"""Strategies: data sets of every kind, whole and with faults, written as HDF5 files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from gymnasium.spaces import Box
from hypothesis import strategies as st

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.uint8, np.int16, np.int64)
BOUNDS = [(-np.inf, np.inf), (-1.0, 1.0), (0.0, np.inf), (-np.inf, 7.5), (-3.0, 100.0), (0.0, 0.25)]
SCORES = [None, 0, 0.0, 1.0, -5.5, float("nan"), float("inf"), "1", True]

floats = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def boxes(draw: st.DrawFn, rank: int | None = None) -> Box:
    low, high = draw(st.sampled_from(BOUNDS))
    shape = draw(st.sampled_from([(1,), (2,), (3,)] if rank == 1 else [(1,), (3,), (2, 2), ()]))
    return Box(low, high, shape, draw(st.sampled_from(FLOATS[1:])))


@st.composite
def action_spaces(draw: st.DrawFn) -> Box:
    low, high = draw(st.sampled_from([(-1.0, 1.0), (-2.0, 2.0), (0.0, 0.1), (5.0, 1000.0)]))
    return Box(low, high, (draw(st.integers(1, 2)),), draw(st.sampled_from(FLOATS[1:])))


observation_spaces = st.one_of(
    boxes(),
    st.builds(lambda low: Box(low, low + 9, (2,), np.int64), st.integers(-3, 3)),
    st.builds(lambda a, b: gym.spaces.Dict({"z": a, "a": b}), boxes(), boxes()),
    st.builds(lambda a, b: gym.spaces.Tuple([a, gym.spaces.Dict({"k": b})]), boxes(), boxes()),
)


def within(rng: np.random.Generator, box: Box, count: int, dtype: Any) -> np.ndarray:
    """``count`` points of a space, the bounds among them, that another dtype holds as they are."""
    low, high = np.maximum(box.low, -50.0), np.minimum(box.high, 50.0)
    low, high = np.minimum(low, high), np.maximum(low, high)
    values = rng.uniform(low, high, (count, *box.shape))
    edges = rng.integers(0, 6, values.shape)
    values = np.where(edges == 0, low, np.where(edges == 1, high, values))
    stored = values.astype(dtype)
    return np.clip(stored, *(np.asarray(x).astype(dtype) for x in (low, high)))


def flags(rng: np.random.Generator, count: int, is_last: bool, dtype: Any) -> np.ndarray:
    values = np.zeros(count, dtype)
    if count:
        values[-1] = is_last
    return values


@st.composite
def minari_sets(draw: st.DrawFn, folder: Path) -> tuple[gym.Space, Box]:
    """Writes a set to ``folder``; gives its spaces. Half of them have faults."""
    rng = np.random.default_rng(draw(seeds))
    space, action_space = draw(observation_spaces), draw(action_spaces())
    lengths = draw(st.lists(st.sampled_from([2, 3, 1, 4, 0]), min_size=1, max_size=3))
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [draw(floats) for _ in range(3)]
    flag = draw(st.sampled_from([bool, bool, np.uint8, np.float64]))
    low, high = draw(st.sampled_from([(None, None), (None, 1.0), (0, 2.5)]))
    metadata = {
        "data_format": "hdf5",
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "ref_min_score": low,
        "ref_max_score": high,
    } | {
        name: to_json(value)
        for name, value in (("observation_space", space), ("action_space", action_space))
    }
    with h5py.File(folder / "main_data.hdf5", "w", track_order=draw(st.booleans())) as file:
        for index, length in enumerate(lengths):
            group = file.create_group(f"episode_{index}")
            write_observations(group, "observations", space, rng, length + 1, kinds[0])
            group["actions"] = within(rng, action_space, length, kinds[1])
            group["rewards"] = rng.normal(size=length).astype(kinds[2])
            for name in ("terminations", "truncations"):
                group[name] = flags(rng, length, draw(st.booleans()), flag)
        if draw(st.booleans()):
            for fault in draw(st.lists(st.sampled_from(MINARI_FAULTS), min_size=1, max_size=2)):
                fault(draw, file, metadata)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return space, action_space


def to_json(space: gym.Space) -> str:
    from minari.serialization import serialize_space

    return serialize_space(space)


def write_observations(
    group: Any, name: str, space: gym.Space, rng: np.random.Generator, count: int, dtype: Any
) -> None:
    if isinstance(space, Box):
        group[name] = within(rng, space, count, dtype if space.dtype.kind == "f" else np.int16)
        return
    children = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space)
    for key, child in children:
        path = f"{name}/_index_{key}" if isinstance(key, int) else f"{name}/{key}"
        write_observations(group, path, child, rng, count, dtype)


@st.composite
def d4rl_files(draw: st.DrawFn, path: Path, space: Box, action_space: Box) -> None:
    """Writes a file to ``path``. Half of them have faults."""
    rng = np.random.default_rng(draw(seeds))
    count = draw(st.sampled_from([6, 9, 3, 7, 2, 1, 0]))
    kinds = [draw(floats) for _ in range(3)]
    flag = draw(st.sampled_from([bool, bool, np.uint8, np.float64]))
    column = (count, 1) if draw(st.booleans()) else (count,)
    arrays = {
        "observations": within(rng, space, count, kinds[0]),
        "next_observations": within(rng, space, count, kinds[0]),
        "actions": within(rng, action_space, count, kinds[1]),
        "rewards": rng.normal(size=column).astype(kinds[2]),
        "terminals": (rng.random(count) < 0.2).astype(flag).reshape(column),
        "timeouts": (rng.random(count) < 0.2).astype(flag),
    }
    for name in ("next_observations", "timeouts"):
        if draw(st.booleans()):
            del arrays[name]
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        if draw(st.booleans()):
            for fault in draw(st.lists(st.sampled_from(ARRAY_FAULTS), min_size=1, max_size=2)):
                fault(draw, file, {})


def some_array(draw: st.DrawFn, file: Any, want: Callable[[str], bool] = bool) -> Any:
    """One of a file's arrays that has something in it, or None."""
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if is_array(item) and want(name) else None
    )
    return file[draw(st.sampled_from(sorted(names)))] if names else None


def is_array(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and bool(item.shape) and item.size > 0


def exchange(file: Any, array: Any, values: Any) -> None:
    name = array.name
    del file[name]
    file[name] = values


def odd_number(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file)
    if array is None or array.dtype.kind != "f":
        return
    odd = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e30, 2.5, -1.0, 1e-42, 1e6]))
    position = tuple(draw(st.integers(0, size - 1)) for size in array.shape)
    with np.errstate(over="ignore"):
        array[position] = array.dtype.type(odd)


def odd_flag(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file, lambda name: name.rpartition("/")[2].startswith(("t", "tr")))
    if array is None or array.dtype.kind not in "biuf":
        return
    values = array[()]
    if values.dtype == bool:  # a byte as a damaged file has it
        values = values.view(np.uint8)
    values.reshape(-1)[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([0, 1, 2, 64]))
    exchange(file, array, values.view(array.dtype))


def other_type(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file)
    if array is None:
        return
    kind = draw(st.sampled_from(["c16", "S8", "O", "i4", "b1", "u8", "f8"]))
    values = array[()]
    if values.dtype.kind not in "biuf":
        return
    with np.errstate(invalid="ignore", over="ignore"):
        texts = np.vectorize(str, otypes=[object])
        exchange(file, array, texts(values) if kind == "O" else values.astype(kind))


def other_length(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file)
    if array is not None:
        values = array[()]
        exchange(
            file, array, values[1:] if draw(st.booleans()) else np.concatenate([values[:1], values])
        )


def other_shape(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file)
    if array is None:
        return
    values = array[()]
    shapes = [(*values.shape, 1), (1, *values.shape), (values.size,), (len(values), -1)]
    kind = draw(st.integers(0, len(shapes) + 1))
    if kind < len(shapes):
        exchange(file, array, values.reshape(shapes[kind]))
    elif kind == len(shapes):
        exchange(file, array, values.reshape(-1)[0])
    else:
        exchange(file, array, h5py.Empty("f8"))


def missing(draw: st.DrawFn, file: Any, _: dict) -> None:
    array = some_array(draw, file)
    if array is not None:
        name = array.name
        del file[name]
        if draw(st.booleans()):
            file.create_group(name)


def more_or_fewer_episodes(draw: st.DrawFn, file: Any, _: dict) -> None:
    names = sorted(file)
    if names and draw(st.booleans()):
        del file[draw(st.sampled_from(names))]
    elif names and (name := f"episode_{len(names) + draw(st.integers(0, 1))}") not in file:
        file.copy(file[names[0]], name)


def other_metadata(draw: st.DrawFn, _: Any, metadata: dict) -> None:
    key = draw(st.sampled_from(["total_episodes", "total_steps", "scores"]))
    told = metadata.get(key)
    if type(told) is not int:
        metadata["ref_min_score"] = draw(st.sampled_from(SCORES))
        metadata["ref_max_score"] = draw(st.sampled_from(SCORES))
    elif key == "total_steps" and draw(st.booleans()):
        del metadata[key]
    else:
        wrong = [told - 1, told + 1, str(told), float(told), True, None]
        metadata[key] = draw(st.sampled_from(wrong))


ARRAY_FAULTS = [odd_number, odd_flag, other_type, other_length, other_shape, missing]
MINARI_FAULTS = [*ARRAY_FAULTS, more_or_fewer_episodes, other_metadata]
