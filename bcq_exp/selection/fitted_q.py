"""Fitted Q evaluation (:mod:`bcq_exp.algorithm.fqe`) of many policies as one computation.

The critics of all policies (:mod:`bcq_exp.selection.critics`) train side by side, as runs do. They
are saved while they learn, and resumed from there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.analysis import statistics
from bcq_exp.analysis.json_values import json_values
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.config.schema import TrainerConfig
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.placement import place
from bcq_exp.files import atomic_path, clear_halves, written
from bcq_exp.selection.candidates import Evidence, in_parts
from bcq_exp.selection.critics import Units, drawn_episodes, stacked_critics
from bcq_exp.selection.importance import padded
from bcq_exp.training.tensor_files import save_tensors

log = logging.getLogger(__name__)

Callback = Callable[[int, Mapping[str, float]], None]
LOSS = 0  # of an evaluation's statistics
VERSION = 2  # increment it when saved critics change


class Values(NamedTuple):
    """A policy's value by each member of an ensemble, (..., M); NaN if a critic diverged.

    Args:
        of_all: the mean over the first states of all episodes.
        of_drawn: the mean over the first states of the member's bootstrap sample.
    """

    of_all: np.ndarray
    of_drawn: np.ndarray


def estimate_row(
    step: int, values: Values, settings: FQESettings, **others: float
) -> dict[str, Any]:
    """Make the record of a policy: the ensemble's mean with its interval, and other estimates.

    Numbers that are not finite become ``None``. The deviation over bootstrap samples is the mean's
    standard error; a single sample has no interval.
    """
    fqe, low, high = ensemble_interval(float(values.of_all.mean()), values.of_drawn)
    found = {"fqe": fqe, "fqe_low": low, "fqe_high": high, **others}
    return {"step": step, **json_values(found), "settings": asdict(settings)}


def ensemble_interval(value: float, of_drawn: np.ndarray) -> statistics.Estimate:
    """Return a number with its interval, from its values in members' bootstrap samples (M,)."""
    if len(of_drawn) < 2:
        return statistics.Estimate(value, np.nan, np.nan)
    return statistics.interval(value, float(of_drawn.std(ddof=1)), len(of_drawn) - 1)


def _timed(
    evidence: Evidence, transitions: Transitions, horizon: int
) -> tuple[Transitions, np.ndarray]:
    """Return the transitions of the first ``horizon`` steps, and first observations, with the share
    of the horizon that has passed as an input; its last step terminates."""
    kept = evidence.kept(horizon)
    t, now = transitions[kept], evidence.step_numbers[kept, None]

    def with_time(obs: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return np.hstack([obs, (steps / horizon).astype(obs.dtype)])

    first_obs = with_time(evidence.first_obs, np.zeros((len(evidence.first_obs), 1)))
    return t.replace(
        obs=with_time(t.obs, now),
        obs_next=with_time(t.obs_next, now + 1),
        terminated=t.terminated | (now[:, 0] + 1 == horizon),
    ), first_obs


class FittedQ:
    """Trains the critics of P policies with M members each.

    Attributes:
        recorded, episode_rows: the training transitions, with the time and without steps beyond the
            horizon if there is one, and their number in each episode (E,).

    Args:
        evidence: the transitions to learn from.
        act_next, first_act: each policy's actions after them (P, N, A), and at first (P, E, A), in
            the form of the evidence.
    """

    def __init__(
        self, evidence: Evidence, act_next: np.ndarray, first_act: np.ndarray, settings: FQESettings
    ) -> None:
        transitions = evidence.dataset.transitions.replace(act=evidence.act)
        first_obs, rows = evidence.first_obs, evidence.episode_rows
        if settings.horizon is not None:
            transitions, first_obs = _timed(evidence, transitions, settings.horizon)
            rows = np.minimum(rows, settings.horizon)
            act_next = act_next[:, evidence.kept(settings.horizon)]
        self._settings, self._num_policies = settings, len(act_next)
        self.recorded, self.episode_rows, self._act_next = transitions, rows, act_next
        num_runs = self._num_policies * settings.num_members
        trainer = TrainerConfig(
            batch_size=settings.batch_size, device="auto", precision="fp32", engine="auto"
        )
        placement = place(trainer, [settings.hidden_sizes], num_runs)
        units = Units.of(transitions, evidence.dataset.action_space, settings)
        self._placement, self._units = placement, units
        low, high = units.value(np.array(units.value_range))
        beyond = high - low or np.inf  # constant rewards of 0 have no range
        self._limits = low - beyond, high + beyond
        self._first = first_obs, first_act
        self._drawn = drawn_episodes(settings, len(rows))
        self._engine = stacked_critics(
            transitions,
            rows,
            self._drawn,
            act_next,
            units,
            settings,
            placement,
            is_discrete=evidence.num_actions is not None,
        )
        shapes = f"{act_next.shape} {first_act.shape} {evidence.dataset.content_hash}"
        numbers = asdict(settings)
        del numbers["epsilon"]  # belongs to other estimates
        digest = hashlib.sha256(f"{VERSION} {shapes} {json.dumps(numbers)}".encode())
        for acts in (act_next, first_act):
            digest.update(np.ascontiguousarray(acts).data)
        self._digest = digest.hexdigest()

    @property
    def step(self) -> int:
        """Gradient steps taken."""
        return self._engine.step

    def estimates(self) -> list[Values]:
        """Estimate every policy's value.

        A critic has diverged if its mean is outside the possible range of values by more than the
        width of that range.
        """
        obs, acts = self._first
        found = np.empty((self._num_policies, self._settings.num_members, len(obs)))
        with self._placement.in_force(), torch.no_grad():
            for k in range(self._engine.num_runs):
                policy, member = divmod(k, self._settings.num_members)
                found[policy, member] = self._values_of(
                    self._engine.algorithm(k), obs, acts[policy]
                )
        low, high = self._limits
        means = found.mean(-1)
        found[~((low <= means) & (means <= high))] = np.nan
        of_drawn = [found[:, m, drawn].mean(-1) for m, drawn in enumerate(self._drawn)]
        return list(map(Values, found.mean(-1), np.stack(of_drawn, 1)))

    def recorded_values(self, k: int, act: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Q of recorded actions (E, T) and V of policy k (E, T + 1), for
        :func:`bcq_exp.selection.importance.doubly_robust`.

        In each episode they are the mean over members whose bootstrap sample leaves it out, because
        errors are smaller on fitted data. If no sample does, all members count.

        Args:
            act: the policy's actions in the states of :attr:`recorded` (n, A).
        """
        t, rows = self.recorded, self.episode_rows
        last = np.cumsum(rows) - 1
        is_out = np.ones((self._settings.num_members, len(rows)), dtype=bool)
        for out, drawn in zip(is_out, self._drawn, strict=True):
            out[drawn] = False
        is_out[:, ~is_out.any(0)] = True
        shares = is_out / is_out.sum(0)
        of_rows = np.repeat(shares, rows, axis=1)
        q = self._mean_value(k, t.obs, t.act, of_rows)
        v = padded(self._mean_value(k, t.obs, act, of_rows), rows, int(rows.max()) + 1)
        after = self._mean_value(k, t.obs_next[last], self._act_next[k][last], shares)
        v[np.arange(len(rows)), rows] = np.where(t.terminated[last], 0, after)
        return padded(q, rows), v

    def _mean_value(
        self, k: int, obs: np.ndarray, act: np.ndarray, shares: np.ndarray
    ) -> np.ndarray:
        """Policy k's values (n,): the mean of members weighted by ``shares`` (M, n)."""
        found, num_members = np.zeros(len(obs)), self._settings.num_members
        with self._placement.in_force(), torch.no_grad():
            for m in range(num_members):
                critic = self._engine.algorithm(k * num_members + m)
                found += shares[m] * in_parts(partial(self._values_of, critic), obs, act)
        return found

    def _values_of(self, critic: OfflineAlgorithm, obs: np.ndarray, act: np.ndarray) -> np.ndarray:
        """A critic's values (n,)."""
        arrays = self._units.obs(obs), self._units.act(act)
        dtype, device = self._placement.precision.dtype, self._placement.device
        tensors = (torch.as_tensor(array, dtype=dtype, device=device) for array in arrays)
        value = critic.value(*tensors)
        assert value is not None
        return self._units.value(value.double().cpu().numpy())

    def fit(self, path: Path, callback: Callback = lambda step, losses: None) -> None:
        """Train to the last step; resume from ``path`` if it is of the same evaluation.

        Args:
            callback: called at intervals with the steps taken and the mean of the last loss.

        Raises:
            CannotWrite: if the system refuses.
        """
        clear_halves(path.parent)
        if path.exists():
            self._take_up(path)
        every = max(1, self._settings.num_steps // 10)
        with self._placement.in_force():
            while (left := self._settings.num_steps - self.step) > 0:
                found = self._engine.advance(min(every - self.step % every, left))
                self._save(path)
                callback(self.step, {"critic_loss": float(found[:, -1, LOSS].mean())})

    def _save(self, path: Path) -> None:
        content = {"digest": self._digest, "runs": self._states()}
        with written(path), atomic_path(path) as temporary:
            save_tensors(content, temporary)

    def _states(self) -> list[dict[str, Any]]:
        return [self._engine.state_dict(k) for k in range(self._engine.num_runs)]

    def _take_up(self, path: Path) -> None:
        before = copy.deepcopy(self._states())
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["digest"] == self._digest:
                self._put_back(content["runs"])
        except Exception:  # any error of reading a damaged file
            log.warning("%s is damaged: critics are fitted again", path)
            self._put_back(before)

    def _put_back(self, states: Sequence[dict[str, Any]]) -> None:
        for k, state in zip(range(self._engine.num_runs), states, strict=True):
            self._engine.load_state_dict(k, state)
