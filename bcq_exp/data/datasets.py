"""Data sets: transitions with their evaluation environment, and loaders.

Three sources: Minari data sets, old D4RL files, and the built-in Pendulum data. Every loader
raises :class:`DataError` with one line that names the data set, the place and what is allowed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from bcq_exp.data import env_scores, env_specs, environments, minari_store, pendulum
from bcq_exp.data.cache import cached, scratch
from bcq_exp.data.contents import Contents
from bcq_exp.data.d4rl_files import read_d4rl
from bcq_exp.data.minari_files import read_minari, spec_text
from bcq_exp.data.spaces import check_action_space
from bcq_exp.data.table.action_columns import ActionOptions
from bcq_exp.data.table.column_choice import choose
from bcq_exp.data.table.reader import read_table
from bcq_exp.data.table.sources import TableFiles, find
from bcq_exp.data.task import Task
from bcq_exp.data.transitions import DataError

FEWEST = 2  # episodes on either side of a holdout
HOLDOUT_SEED = 0  # runs with equal data and share hold out the same episodes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Contents, Task):
    """Validated offline data and the environment a policy learned from it is evaluated in.

    Args:
        held_out: the episodes that are kept from training, if any; this set has the others.
    """

    held_out: Dataset | None = None

    @property
    def is_one_hot(self) -> np.ndarray:
        """Which numbers of an observation are one-hot ``(O,)`` and must not be scaled."""
        if self.columns is None:
            return np.zeros(self.observation_space.shape, bool)
        features = self.columns["observations"]
        sizes = [len(f.get("categories", "1")) for f in features]
        return np.repeat([f["kind"] != "number" for f in features], sizes)

    @property
    def behaviour_return(self) -> float:
        """Mean return of the recorded episodes, cut ones included."""
        return float(np.mean(self.episode_returns))

    @cached_property
    def num_cut(self) -> int:
        """How many episodes were cut short: neither terminated nor at the environment's limit.

        0 where the environment or its step limit is unknown.
        """
        limit = None if self.env_spec is None else self.env_spec.max_episode_steps
        if limit is None:
            return 0
        ends = np.cumsum(self.episode_rows)[self.episode_rows > 0] - 1
        terminated = np.zeros(len(self.episode_rows), bool)
        terminated[self.episode_rows > 0] = self.transitions.terminated[ends]
        return int(np.count_nonzero(~terminated & (self.episode_lengths < limit)))

    def facts(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "content_hash": self.content_hash,
            "num_transitions": len(self.transitions),
            "num_episodes": len(self.episode_returns),
            "behaviour_return": self.behaviour_return,
            **({"cut_episodes": self.num_cut} if self.num_cut else {}),
            **({} if self.held_out is None else {"held_out": len(self.held_out.episode_lengths)}),
            **({"notes": list(self.notes)} if self.notes else {}),
            **({"columns": dict(self.columns)} if self.columns is not None else {}),
        }

    def without(self, share: float | None) -> Dataset:
        """Return the data set with that share of the episodes held out.

        Raises:
            DataError: if there are too few of them.
        """
        if share is None:
            return self
        is_held_out = held_out_episodes(self.id, len(self.episode_lengths), share)
        held_out, kept = self._of_episodes(is_held_out), self._of_episodes(~is_held_out)
        least = min(np.count_nonzero(side.episode_rows) for side in (held_out, kept))
        if least < FEWEST:
            raise DataError(
                f"dataset.holdout={share}: splits {self.id} so that one part has {least} episodes "
                f"with transitions; each needs at least {FEWEST}; give another share, or null"
            )
        return replace(kept, held_out=held_out)

    def _of_episodes(self, chosen: np.ndarray) -> Dataset:
        rows, prob = np.repeat(chosen, self.episode_rows), self.behaviour_prob
        return replace(
            self,
            transitions=self.transitions[rows],
            behaviour_prob=None if prob is None else prob[rows],
            episode_returns=self.episode_returns[chosen],
            episode_lengths=self.episode_lengths[chosen],
            episode_rows=self.episode_rows[chosen],
        )


def held_out_episodes(id: str, num_episodes: int, share: float) -> np.ndarray:
    """Which of a data set's episodes are held out, (E,) bool.

    Args:
        id: the data set's id, for messages.
        share: the share of the episodes, rounded.

    Raises:
        DataError: if that leaves fewer than FEWEST of them on a side.
    """
    count = round(share * num_episodes)
    if not FEWEST <= count <= num_episodes - FEWEST:
        least = -(-100 * FEWEST // num_episodes) / 100
        fix = f"{least} to {1 - least:.2f}, or null" if num_episodes >= 2 * FEWEST else "null"
        raise DataError(
            f"dataset.holdout={share}: holds out {count} of the {num_episodes} episodes of {id}; "
            f"at least {FEWEST} must be held out and {FEWEST} left for training; give {fix}"
        )
    chosen = np.random.default_rng(HOLDOUT_SEED).permutation(num_episodes)[:count]
    return np.isin(np.arange(num_episodes), chosen)


def load_minari(
    id: str,
    *,
    download: bool = True,
    env: str | None = None,
    use_cache: bool = True,
    clip_actions: bool | None = None,
    holdout: float | None = None,
) -> Dataset:
    """Load a Minari data set from the local folder, or download it.

    Args:
        id: such as ``mujoco/hopper/expert-v0``.
        download: fetch it where it is not in ``$MINARI_DATASETS_PATH`` (``~/.minari/datasets``).
        env: environment to evaluate in instead of the one the data set names. Given that one's id,
            its recorded keyword arguments, step limit and wrappers are kept.
        use_cache: see :mod:`bcq_exp.data.cache`.
        clip_actions: clip recorded actions to their space, as the environment or robot did.
        holdout: share of the episodes to hold out (:meth:`Dataset.without`).

    Raises:
        DataError: missing, damaged, unusable spaces or values, or an unknown environment.
    """
    folder = minari_store.fetch(id, download=download)
    files = [path for path in folder.rglob("*") if path.is_file()]
    clips = bool(clip_actions)
    contents = cached(
        files,
        lambda: read_minari(id, folder, clips),
        *(id, f"clips_actions={clips}"),
        use=use_cache,
    )
    spec = None if env is None else env_specs.find_spec(id, env)
    return _dataset(id, contents, spec).without(holdout)


def load_pendulum(
    level: str = "mixture",
    *,
    num_steps: int = pendulum.DEFAULT_STEPS,
    seed: int = pendulum.DEFAULT_SEED,
    holdout: float | None = None,
) -> Dataset:
    """Load the built-in Pendulum-v1 data, made on first use (seconds) and stored by Minari.

    Args:
        level: ``expert``, ``medium``, ``random``, or ``mixture`` (a third of each).
        num_steps: recorded steps.
        seed: seed of the collection.
        holdout: share of the episodes to hold out.

    Raises:
        DataError: unknown level, or the folder of data sets cannot be written.
    """
    id = pendulum.ensure_pendulum(level, num_steps, seed)
    return load_minari(id, download=False, holdout=holdout)


def load_d4rl_hdf5(
    path: str,
    *,
    env: str | None = None,
    action_bounds: Sequence[Any] | None = None,
    use_cache: bool = True,
    clip_actions: bool | None = None,
    holdout: float | None = None,
) -> Dataset:
    """Load an old D4RL file: HDF5 with observations, actions, rewards, terminals, and optionally
    timeouts and next_observations.

    With next_observations every row is kept. Without, a row's successor is the next row's
    observation; rows that have none (timeouts, an unfinished last row) are dropped. A file without
    timeouts is cut where the environment's step limit cuts, as D4RL itself does.

    The files were recorded in version 2 of the MuJoCo environments. Hopper, HalfCheetah and
    Walker2d are evaluated in v5, which has the same observations and actions but fixes to rewards
    and contacts, so returns compare only roughly; Ant-v5 has other observations and is refused.

    Args:
        path: the file.
        env: environment to evaluate in; by default guessed from the file's name.
        action_bounds: lowest and highest action, one pair for all or one for each; the file is
            then read without an environment.
        use_cache: see :mod:`bcq_exp.data.cache`.
        clip_actions: clip recorded actions to their bounds, as the environment or robot did.
        holdout: share of the episodes to hold out.

    Raises:
        DataError: a file that is missing, damaged, does not fit the environment or has unusable
            values; an environment that cannot be guessed, found or made; unknowable episode edges.
    """
    file = Path(os.path.expanduser(path))
    name = file.stem
    if file.is_dir():
        raise DataError(f"dataset.path={path}: is a folder; give one of its HDF5 files")
    if not file.is_file():
        raise DataError(f"data set {name!r}: there is no file {path!r}")
    env = env or env_specs.guess_env(file.name)
    if env is None and action_bounds is None:
        raise DataError(
            f"data set {name!r}: the file name {file.name!r} does not name a known environment; "
            "set dataset.env to a Gymnasium id, or dataset.action_bounds to train without one"
        )
    spec = None if env is None else env_specs.find_spec(name, env)
    clips = bool(clip_actions)
    # The step limit decides edges, and a user's own registration may change under the same id; so
    # may the spaces of an environment that is not Gymnasium's.
    edges = "" if spec is None else f"{spec.id} {spec.max_episode_steps} {spec.kwargs}"
    is_custom = spec is not None and not str(spec.entry_point).startswith("gymnasium.")
    if is_custom and action_bounds is None:
        edges += f" {environments.spaces_of(name, spec)}"
    contents = cached(
        [file],
        lambda: read_d4rl(name, file, spec, action_bounds=action_bounds, clips_actions=clips),
        *(edges, f"action_bounds={action_bounds}", f"clips_actions={clips}"),
        use=use_cache,
    )
    return _dataset(name, contents, spec).without(holdout)


def load_table(
    path: str,
    *,
    env: str | None = None,
    episode: str | None = None,
    time: str | None = None,
    observations: str | Sequence[str] | None = None,
    actions: str | Sequence[str] | None = None,
    reward: str | None = None,
    terminated: str | bool | None = None,
    truncated: str | None = None,
    behaviour_prob: str | None = None,
    categorical: Sequence[str] = (),
    action_type: str | None = None,
    allowed_actions: Sequence[Any] | None = None,
    action_bounds: Sequence[Any] | None = None,
    empty_reward: float | None = None,
    use_cache: bool = True,
    clip_actions: bool | None = None,
    holdout: float | None = None,
) -> Dataset:
    """Load a table of logged data, Parquet or CSV: one row per step, episodes in consecutive rows.

    The next observation is that of the episode's next row. The last row of an episode that is not
    terminated has none: it is dropped, as in D4RL files. A last row without an action is the
    observation after the last step.

    Args:
        path: a file, or a pattern such as ``logs/*.parquet``.
        env: environment to evaluate in; the table must have its actions.
        episode, time, reward, behaviour_prob: columns; None guesses by name.
        observations, actions: columns, prefixes or patterns; None guesses by name.
        terminated: a column of flags; True: every episode terminates; None guesses by name, and an
            episode without flags is truncated.
        truncated: a column of flags.
        categorical: columns of numbers that are categories.
        action_type: ``discrete`` or ``continuous``; None decides by the values.
        allowed_actions: the allowed discrete actions, each of which must occur.
        action_bounds: lowest and highest action, one pair for all or one for each.
        empty_reward: the reward of rows without one.
        use_cache: see :mod:`bcq_exp.data.cache`.
        clip_actions: clip recorded actions to their bounds.
        holdout: share of the episodes to hold out.

    Raises:
        DataError: one line that names what is wrong, with column, row and file.
    """
    files = find(path)
    name = files[0].stem if len(files) == 1 else files[0].absolute().parent.name
    spec = of_env = None
    if env is not None:
        spec = env_specs.find_spec(name, env)
        of_env = check_action_space(name, environments.spaces_of(name, spec)[1])
    wanted = {
        "episode": episode,
        "time": time,
        "observations": observations,
        "actions": actions,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "behaviour_prob": behaviour_prob,
    }
    asked = ActionOptions(
        type=action_type,
        allowed=None if allowed_actions is None else tuple(allowed_actions),
        bounds=None if action_bounds is None else tuple(action_bounds),
        clips=bool(clip_actions),
        of_env=of_env,
    )

    def read() -> Contents:
        table = TableFiles(name, path, files)
        columns = choose(files[0].name, table.columns, tuple(categorical), **wanted)
        return read_table(table, columns, asked, empty_reward, folder)

    with scratch() as folder:
        words = f"{path} {wanted} {categorical} {asked} {empty_reward}"
        contents = cached(files, read, words, use=use_cache)
    return _dataset(name, contents, spec).without(holdout)


def step_limit(node: Mapping[str, Any]) -> int | None:
    """Return the step limit of a ``dataset`` node's environment without loading its data.

    ``None`` if there is no limit, or it is unknown.
    """
    env, id, path = node.get("env"), str(node.get("id", "")), node.get("path")
    if str(node.get("_target_")).endswith(load_pendulum.__name__):
        env = pendulum.ENV_ID
    if env is None and path is not None:
        env = env_specs.guess_env(Path(str(path)).name)
    try:
        chosen = None if env is None else env_specs.find_spec(id, env)
        own = None if path is not None or not id else spec_text(minari_store.metadata(id) or {})
        spec = _evaluated(id, own, chosen)
        return None if spec is None else spec.max_episode_steps
    except DataError:
        return None


def _evaluated(id: str, own: str | None, chosen: EnvSpec | None) -> EnvSpec | None:
    """Return the environment of evaluations: the user's choice, else the data's ``own``.

    The choice of the data's own id means the environment as it was recorded, with its keyword
    arguments, step limit and wrappers.
    """
    recorded = None
    if own is not None:
        with suppress(DataError):  # raised where the environment is needed
            recorded = env_specs.parse_spec(id, own)
    if chosen is None or recorded is None:
        return chosen or recorded
    is_its_own = chosen.id == recorded.id and not env_scores.same_task(chosen, recorded)
    return recorded if is_its_own else chosen


def _dataset(id: str, contents: Contents, chosen: EnvSpec | None) -> Dataset:
    """Make a data set of contents, with the user's choice of evaluation environment."""
    spec, scores = _evaluated(id, contents.env_text, chosen), contents.reference_scores
    own = contents.env_text
    if spec is not None and own is not None and not env_scores.same_environment(spec, own):
        scores = None
    notes = (*contents.notes, *env_scores.notes(spec))
    for note in notes:
        _log.warning("data set %r: %s", id, note)
    given = {
        "env_spec": spec,
        "reference_scores": scores or env_scores.reference_scores(spec),
        "notes": notes,
    }
    return Dataset(id=id, **vars(contents) | given)
