"""Loading as slowly and plainly as can be: what the loaders must give, or refuse."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np

CLEARLY = (
    1e-3  # of a bound's range: so far outside is no rounding; made-up data have nothing nearer
)


class Refused(Exception):
    """What no one should learn from."""


def need(condition: Any, why: str) -> None:
    if not condition:
        raise Refused(why)


def minari(folder: Path, observation_space: gym.Space, action_space: gym.spaces.Box) -> dict:
    """Rows, episode lengths and returns of a Minari data set in HDF5."""
    metadata = json.loads((folder / "metadata.json").read_text())
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is not None and high is not None:
        need(type(low) in (int, float) and type(high) in (int, float), "scores are no numbers")
        need(math.isfinite(low) and math.isfinite(high) and low < high, "scores are no scale")
    rows, lengths, returns = [], [], []
    with h5py.File(folder / "main_data.hdf5") as file:
        count = metadata["total_episodes"]
        need(type(count) is int and count == len(file), "another number of episodes")
        for index in range(count):
            need(f"episode_{index}" in file, "no such episode")
            episode = minari_episode(file[f"episode_{index}"], observation_space, action_space)
            if episode:
                rows += episode
                lengths.append(len(episode))
                returns.append(math.fsum(float(row["rew"]) for row in episode))
    steps = metadata.get("total_steps", len(rows))
    need(type(steps) is int and steps == len(rows), "another number of steps")
    return result(rows, lengths, returns)


def minari_episode(group: Any, observation_space: gym.Space, action_space: gym.Space) -> list[dict]:
    need(isinstance(group, h5py.Group), "no episode")
    rewards = numbers(group, "rewards")
    steps = len(rewards)
    need(all(value.shape == () for value in rewards), "rewards that are no numbers")
    observations: list[list] = [[] for _ in range(steps + 1)]
    for path, box in leaves(observation_space):
        part = numbers(group, "/".join(["observations", *path]))
        need(len(part) == steps + 1, "observations missing")
        for t in range(steps + 1):
            need(np.size(part[t]) == math.prod(box.shape), "another size than its space")
            if steps:  # that of an episode without a step is in no transition
                observations[t] += vector(part[t], box)
    acts = numbers(group, "actions")
    ends = {name: flags(numbers(group, name)) for name in ("terminations", "truncations")}
    need(len(acts) == len(ends["terminations"]) == len(ends["truncations"]) == steps, "lengths")
    rows = []
    for t in range(steps):
        is_last = t == steps - 1
        terminated, truncated = ends["terminations"][t], ends["truncations"][t]
        need(is_last or not (terminated or truncated), "an end in mid-episode")
        rows.append(
            {
                "obs": observations[t],
                "act": vector(acts[t], action_space),
                "rew": float32(rewards[t]),
                "terminated": terminated,
                "truncated": truncated or (is_last and not terminated),
                "obs_next": observations[t + 1],
            }
        )
    return rows


def leaves(space: gym.Space) -> Iterator[tuple[list[str], gym.spaces.Box]]:
    """Each Box of a space, and where its array is stored."""
    if isinstance(space, gym.spaces.Dict):
        for key, child in space.spaces.items():
            for path, box in leaves(child):
                yield [key, *path], box
    elif isinstance(space, gym.spaces.Tuple):
        for position, child in enumerate(space.spaces):
            for path, box in leaves(child):
                yield [f"_index_{position}", *path], box
    else:
        yield [], space


def d4rl(path: Path, space: gym.Space, action_space: gym.Space, limit: int | None) -> dict:
    """Rows, episode lengths and returns of a D4RL file; ``limit`` is the environment's."""
    with h5py.File(path) as file:
        table = {name: numbers(file, name) for name in ("observations", "actions", "rewards")}
        table["terminals"] = numbers(file, "terminals")
        for name in ("timeouts", "next_observations"):
            if name in file:
                table[name] = numbers(file, name)
    count = len(table["rewards"])
    need(all(len(values) == count for values in table.values()), "lengths")
    for name in ("rewards", "terminals", "timeouts"):
        for row, value in enumerate(table.get(name, [])):
            need(np.shape(value) in ((), (1,)), "more than a number a step")
            table[name][row] = value if np.shape(value) == () else value[0]
    for name in ("observations", "actions", "next_observations"):
        need(all(np.ndim(value) == 1 for value in table.get(name, [])), "vectors")
    for name in ("terminals", "timeouts"):
        if name in table:
            table[name] = flags(table[name])
    known = "timeouts" in table or "next_observations" in table or limit is not None
    need(known, "edges that cannot be known")
    rewards = [float32(value) for value in table["rewards"]]
    rows, lengths, returns, episode = [], [], [], []
    for i in range(count):
        episode.append(i)
        if "timeouts" in table:
            is_cut = table["timeouts"][i]
        else:
            is_cut = limit is not None and len(episode) == limit
        if not (table["terminals"][i] or is_cut or i == count - 1):
            continue
        lengths.append(len(episode))
        returns.append(math.fsum(float(rewards[j]) for j in episode))
        terminal = table["terminals"][i]
        kept = episode if terminal or "next_observations" in table else episode[:-1]
        for j in kept:
            if "next_observations" in table:
                successor = table["next_observations"][j]
            else:
                successor = table["observations"][j if table["terminals"][j] else j + 1]
            rows.append(
                {
                    "obs": vector(table["observations"][j], space),
                    "act": vector(table["actions"][j], action_space),
                    "rew": rewards[j],
                    "terminated": table["terminals"][j],
                    "truncated": j == kept[-1] and not table["terminals"][j],
                    "obs_next": vector(successor, space),
                }
            )
        episode = []
    return result(rows, lengths, returns)


def result(rows: list[dict], lengths: list[int], returns: list[float]) -> dict:
    need(rows, "nothing to learn from")
    return {"rows": rows, "lengths": lengths, "returns": returns}


def numbers(group: Any, name: str) -> list:
    """An array of real numbers, as a list of what it has along its first axis."""
    need(name in group and isinstance(group[name], h5py.Dataset), f"no {name}")
    stored = group[name]
    need(stored.shape, f"{name} is no array")
    need(stored.dtype.kind in "biuf", f"{name} are no numbers")
    values = stored[()]  # a boolean is as many bytes as it has, whatever they are
    return list(values.view(np.uint8) if values.dtype == bool else values)


def flags(values: list) -> list[bool]:
    for value in values:
        need(np.shape(value) == () and value in (0, 1), "neither yes nor no")
    return [bool(value) for value in values]


def vector(values: Any, box: gym.spaces.Box) -> list[np.float32]:
    """The numbers of one observation or action, if its space has such."""
    values, low, high = (np.ravel(x) for x in (values, box.low, box.high))
    need(len(values) == len(low), "another size than its space")
    for value, least, most in zip(values, low.astype(float), high.astype(float), strict=True):
        extent = most - least
        if not math.isfinite(extent):
            extent = max([1.0, *(abs(bound) for bound in (least, most) if math.isfinite(bound))])
        room = CLEARLY * extent + 1e-6 * max(1.0, abs(float(value)))
        need(least - room <= float32(value) <= most + room, "outside its space")
    return [float32(value) for value in values]


def float32(value: Any) -> np.float32:
    with np.errstate(over="ignore"):
        rounded = np.asarray(value).astype(np.float32)[()]
    need(np.isfinite(rounded), "not finite")
    return rounded
