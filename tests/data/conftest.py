"""Folders of their own for every test, and small real data sets to load."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder of Minari data sets (``minari``) and of cached arrays (``cache``)."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class MinariFiles:
    """Makes a Minari data set with Minari itself, and damages it afterwards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, dataset_id: str) -> Path:
        return self.root / dataset_id / "data"

    def write(
        self,
        dataset_id: str = "test/toy-v0",
        *,
        lengths: tuple[int, ...] = (3, 2),
        ends: tuple[str, ...] = ("terminated", "truncated"),
        observation_space: gym.Space | None = None,
        action_space: gym.Space | None = None,
        observations: Callable[[int, int], Any] | None = None,
        env: str | None = None,
        **metadata: Any,
    ) -> str:
        """Episode ``e`` has obs ``100 e + 10 t + (0, 1)``, act ``0.1 t``, rew ``e + t / 10``.

        ``ends``: how each episode's last step is marked ("neither" leaves both flags off).
        ``observations(e, T)``: other observations of ``T + 1`` rows (nested as the space is).
        """
        import minari
        from minari.data_collector.episode_buffer import EpisodeBuffer

        buffers = []
        for episode, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            steps = np.arange(length + 1)
            plain = 100.0 * episode + 10.0 * steps[:, None] + np.arange(2)
            last = steps[1:] == length
            buffers.append(
                EpisodeBuffer(
                    observations=observations(episode, length) if observations else plain,
                    actions=self.actions(action_space, length),
                    rewards=list(episode + steps[:-1] / 10),
                    terminations=list(last & (end == "terminated")),
                    truncations=list(last & (end == "truncated")),
                )
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=env,
                observation_space=observation_space or Box(-np.inf, np.inf, (2,), np.float64),
                action_space=action_space or Box(-1.0, 1.0, (1,), np.float32),
            )
        if metadata:
            self.edit_metadata(dataset_id, **metadata)
        return dataset_id

    @staticmethod
    def actions(space: gym.Space | None, length: int) -> np.ndarray:
        if isinstance(space, gym.spaces.Discrete):
            return np.zeros(length, dtype=np.int64)
        shape = space.shape if isinstance(space, Box) else (1,)
        return np.ones((length, *shape), np.float32) * 0.1 * np.arange(length)[:, None]

    def edit_metadata(self, dataset_id: str, **changes: Any) -> None:
        """Set metadata; a value of None removes the key."""
        path = self.folder(dataset_id) / "metadata.json"
        metadata = json.loads(path.read_text()) | changes
        kept = {key: value for key, value in metadata.items() if value is not None}
        path.write_text(json.dumps(kept))

    def delete(self, dataset_id: str) -> None:
        """Remove the data set."""
        shutil.rmtree(self.folder(dataset_id).parent)

    def edit(self, dataset_id: str, change: Callable[[h5py.File], None]) -> None:
        """Change the stored arrays."""
        with h5py.File(self.folder(dataset_id) / "main_data.hdf5", "r+") as file:
            change(file)


@pytest.fixture
def minari_files(home: Path) -> MinariFiles:
    return MinariFiles(home / "minari")
