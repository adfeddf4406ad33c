"""Fitted Q evaluation (:mod:`bcq_exp.algorithm.fqe`) of many policies as one computation.

Each policy has an ensemble of critics, whose members see other bootstrap samples of the episodes.
A member has the same initial weights, episodes and batches for every policy, so that what differs
between policies is theirs. All of them are stacked and recorded as training is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcq_exp.algorithm.base import NoNoise
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.fqe import FQE
from bcq_exp.algorithm.networks import Critic, choose_compute_dtype
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.config.fqe import FQESettings
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine, ParallelEngine
from bcq_exp.engine.placement import Placement, place
from bcq_exp.engine.stream import HostStream, generator, init_seed
from bcq_exp.files import atomic_path, clear_halves, written
from bcq_exp.selection.candidates import Evidence
from bcq_exp.training.evaluation import ObsNormalizer

log = logging.getLogger(__name__)

MEMBER, EPISODES = "member", "episodes"  # purposes of random numbers
Told = Callable[[int, Mapping[str, float]], None]
LOSS = 0  # of an evaluation's statistics
BEYOND = 2.0  # times what the largest reward for ever would be worth: a value of none


@dataclass
class _Placing:
    """What a run says of where it is trained (:class:`bcq_exp.engine.placement.Settings`)."""

    batch_size: int
    device: str = "auto"
    num_threads: int | None = None
    precision: str = "fp32"
    capture: str = "auto"
    compile: bool = False


class Values(NamedTuple):
    """What an ensemble makes of a policy's value, (..., M) each; NaN where a critic diverged.

    Args:
        of_all: where any episode begins.
        of_drawn: where the episodes of a member's own bootstrap sample do.
    """

    of_all: np.ndarray
    of_drawn: np.ndarray


def estimate_row(
    step: int, values: Values, settings: FQESettings, **others: float
) -> dict[str, Any]:
    """What is kept of a policy: the ensemble's mean, two standard errors to either side of it, and
    other estimates; ``None`` for a number that is none.

    In a bootstrap the samples' deviation is the mean's standard error; of one there is none.
    """
    mean = float(values.of_all.mean())
    deviation = values.of_drawn.std(ddof=1) if settings.num_members > 1 else np.nan
    half = 2 * float(deviation)
    told = {"fqe": mean, "fqe_low": mean - half, "fqe_high": mean + half, **others}
    finite = {name: value if np.isfinite(value) else None for name, value in told.items()}
    return {"step": step, **finite, "settings": asdict(settings)}


class PolicyTable(TransitionTable):
    """Transitions with the next action of the policy that each stacked run evaluates.

    Args:
        table: the transitions, which all share.
        act_next: (P, N, A), each policy's.
        rows: (M, N), the transitions that each member of an ensemble sees.
        policy, member: which of them each run has (K,).
    """

    def __init__(
        self, table: Tensor, sizes: tuple[int, int], act_next: Tensor, rows: Tensor, policy: Tensor,
        member: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(table, *sizes)
        num_rows = act_next.shape[1]
        self._act_next, self._chosen = act_next.flatten(0, 1), rows.flatten()
        self._policy = (policy * num_rows).unsqueeze(-1)  # (K, 1)
        self._member = (member * num_rows).unsqueeze(-1)

    def batch(self, indices: Tensor) -> Batch:
        """Of K runs (K, B), of one (B,)."""
        flat = (self._member + indices).reshape(-1)
        rows = self._chosen.index_select(0, flat).reshape(len(self._member), -1)
        act_next = self._act_next.index_select(0, (self._policy + rows).reshape(-1))
        found = super().batch(rows.reshape(indices.shape))
        return Batch(**vars(found), act_next=act_next.reshape(found.act.shape))


class FittedQ:
    """The critics of P policies with M members each, learning.

    Args:
        evidence: the transitions to learn from.
        act_next, first_act: what each policy does after them (P, N, A), and at first (P, E, A), in
            the environment's units.
    """

    def __init__(
        self, evidence: Evidence, act_next: np.ndarray, first_act: np.ndarray, settings: FQESettings
    ) -> None:
        transitions = evidence.dataset.transitions
        self._settings, self._num_policies = settings, len(act_next)
        runs = self._num_policies * settings.num_members
        sizes = [list(settings.hidden_sizes)]
        placement = place(_Placing(settings.batch_size), sizes, runs)
        self._placement = placement
        units = _Units.of(transitions, evidence.dataset.action_space, settings.gamma)
        self._units = units
        dtype, device = placement.precision.dtype, placement.device
        self._first = (
            torch.as_tensor(units.obs(evidence.first_obs), dtype=dtype, device=device),
            torch.as_tensor(units.act(first_act), dtype=dtype, device=device),
        )
        self._drawn = [
            _drawn_episodes(_member_seed(settings, m), len(evidence.episode_rows))
            for m in range(settings.num_members)
        ]
        drawn_rows = [_rows_of(episodes, evidence.episode_rows) for episodes in self._drawn]
        self._engine = _engine(transitions, drawn_rows, act_next, units, settings, placement)
        self._limit = BEYOND * float(np.abs(transitions.rew).max()) * units.horizon
        shapes = f"{act_next.shape} {first_act.shape} {evidence.dataset.content_hash}"
        digest = hashlib.sha256(f"{shapes} {json.dumps(asdict(settings))}".encode())
        for acts in (act_next, first_act):
            digest.update(np.ascontiguousarray(acts).data)
        self._digest = digest.hexdigest()

    @property
    def step(self) -> int:
        """Gradient steps taken."""
        return self._engine.step

    def advance(self, num_steps: int) -> Tensor:
        """As :meth:`bcq_exp.engine.engine.Engine.advance`, for all runs: policy by policy."""
        return self._engine.advance(num_steps)

    def estimates(self) -> list[Values]:
        """Every policy's.

        A critic has diverged whose mean is twice what any reward that there is would be for ever.
        """
        obs, acts = self._first
        found = np.empty((self._num_policies, self._settings.num_members, len(obs)))
        for k in range(self._engine.num_runs):
            policy, member = divmod(k, self._settings.num_members)
            with torch.no_grad():
                value = self._engine.algorithm(k).value(obs, acts[policy])
            assert value is not None
            found[policy, member] = self._units.value(value.double().cpu().numpy())
        found[~(np.abs(found.mean(-1)) <= self._limit)] = np.nan
        of_drawn = [found[:, m, drawn].mean(-1) for m, drawn in enumerate(self._drawn)]
        return list(map(Values, found.mean(-1), np.stack(of_drawn, 1)))

    def fit(self, path: Path, told: Told = lambda step, losses: None) -> None:
        """Learn to the last step, from what is kept at ``path`` if it is of the same evaluation.

        Args:
            told: called now and then with the steps taken, and the mean loss in the last.

        Raises:
            CannotWrite: if the system refuses.
        """
        clear_halves(path.parent)
        if path.exists():
            self._take_up(path)
        every = max(1, self._settings.num_steps // 10)
        with self._placement.in_force():
            while (left := self._settings.num_steps - self.step) > 0:
                found = self.advance(min(every - self.step % every, left))
                self._save(path)
                told(self.step, {"critic_loss": float(found[:, -1, LOSS].mean())})

    def _save(self, path: Path) -> None:
        states = [self._engine.state_dict(k) for k in range(self._engine.num_runs)]
        content = {"digest": self._digest, "runs": states}
        with written(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)

    def _take_up(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            same = content["digest"] == self._digest
        except Exception:  # whatever reading a damaged file raises
            log.warning("%s is damaged: fitted anew", path)
            return
        if same:
            for k, state in enumerate(content["runs"]):
                self._engine.load_state_dict(k, state)


@dataclass(frozen=True)
class _Units:
    """What critics work in: observations of mean 0 and deviation 1, actions in [-1, 1], and
    rewards by the size of a discounted sum of them, so that values are about 1."""

    normalizer: ObsNormalizer
    low: np.ndarray
    high: np.ndarray
    horizon: float
    scale: float

    @classmethod
    def of(cls, transitions: Transitions, action_space: Any, gamma: float) -> _Units:
        size = float(np.abs(transitions.rew).mean(dtype=np.float64))
        horizon = 1 / (1 - gamma) if gamma < 1 else len(transitions)
        return cls(
            ObsNormalizer.of(transitions.obs),
            action_space.low,
            action_space.high,
            horizon,
            size * horizon or 1.0,
        )

    def obs(self, obs: np.ndarray) -> np.ndarray:
        return self.normalizer(obs)

    def act(self, act: np.ndarray) -> np.ndarray:
        return (2 * (act - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def value(self, value: np.ndarray) -> np.ndarray:
        """A critic's values in the rewards' own unit."""
        return value * self.scale

    def __call__(self, t: Transitions) -> Transitions:
        return t.replace(
            obs=self.obs(t.obs),
            obs_next=self.obs(t.obs_next),
            act=self.act(t.act),
            rew=t.rew / self.scale,
        )


def _engine(
    transitions: Transitions,
    drawn_rows: Sequence[Tensor],
    act_next: np.ndarray,
    units: _Units,
    settings: FQESettings,
    placement: Placement,
) -> ParallelEngine:
    """Stacks of runs that share their data; a policy's members are neighbours.

    They are even, and as many as keep every thread busy to the end.
    """
    dtype, device = placement.precision.dtype, placement.device
    num_rows, sizes = len(transitions), (transitions.obs.shape[1], transitions.act.shape[1])
    table = TransitionTable.of(transitions, dtype, device, units)
    acts = torch.as_tensor(units.act(act_next), dtype=dtype, device=device)
    rows = torch.stack(list(drawn_rows)).to(device)
    streams = [
        HostStream(_member_seed(settings, m), num_rows, settings.batch_size, NoNoise())
        for m in range(settings.num_members)
    ]
    count = len(act_next) * settings.num_members
    rounds = math.ceil(count / placement.group_size)
    num_stacks = min(count, rounds * placement.num_stacks(count))
    engines = []
    for numbers in torch.arange(count, device=device).tensor_split(num_stacks):
        policy, member = numbers // settings.num_members, numbers % settings.num_members
        engines.append(
            CohortEngine(
                [_critic(settings, m, sizes, placement) for m in member.tolist()],
                PolicyTable(table.rows, sizes, acts, rows, policy, member),
                [streams[m] for m in member.tolist()],
                placement.capture,
            )
        )
    return ParallelEngine(engines, placement.num_threads)


def _critic(
    settings: FQESettings, member: int, sizes: tuple[int, int], placement: Placement
) -> FQE:
    obs_dim, act_dim = sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed(_member_seed(settings, member)))
        critic = Critic(obs_dim=obs_dim, act_dim=act_dim, hidden_sizes=settings.hidden_sizes)
    critic.to(dtype=placement.precision.dtype, device=placement.device)
    choose_compute_dtype(critic, placement.precision.compute_dtype)
    optim = AdamOptimizerFactory(lr=settings.lr)
    return FQE(critic=critic, critic_optim=optim, gamma=settings.gamma, tau=settings.tau)


def _member_seed(settings: FQESettings, member: int) -> int:
    """Of a member's weights, episodes and batches: other members', or seeds', have none of it."""
    return int(generator(settings.seed, MEMBER, member).integers(2**31))


def _drawn_episodes(seed: int, num_episodes: int) -> np.ndarray:
    """As many episodes, drawn with replacement (E,)."""
    return generator(seed, EPISODES).integers(num_episodes, size=num_episodes)


def _rows_of(episodes: np.ndarray, episode_rows: np.ndarray) -> Tensor:
    """The transitions of episodes, repeated or cut to the N that there are of all (N,)."""
    starts = np.cumsum(episode_rows) - episode_rows
    rows = np.concatenate([np.arange(starts[e], starts[e] + episode_rows[e]) for e in episodes])
    return torch.from_numpy(np.resize(rows, episode_rows.sum()))
