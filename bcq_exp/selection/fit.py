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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from bcq_exp.engine.placement import STACK_SIZE, Placement, place
from bcq_exp.engine.stream import HostStream, generator, init_seed
from bcq_exp.files import atomic_path
from bcq_exp.selection.candidates import Evidence
from bcq_exp.training.evaluation import ObsNormalizer

log = logging.getLogger(__name__)

EPISODES = "episodes"  # the purpose of a member's random numbers beside its batches


@dataclass
class _Placing:
    """What a run says of where it is trained (:class:`bcq_exp.engine.placement.Settings`)."""

    batch_size: int
    device: str = "auto"
    num_threads: int | None = None
    precision: str = "fp32"
    capture: str = "auto"
    compile: bool = False


def estimate_row(
    step: int, values: np.ndarray, settings: FQESettings, **others: float
) -> dict[str, Any]:
    """What is kept of a policy: the mean of an ensemble's values (M,), two standard errors to
    either side of it, and other estimates; ``None`` for a number that is none.

    In a bootstrap the members' deviation is the mean's standard error.
    """
    mean, half = float(values.mean()), 2 * float(values.std())
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
        lengths = evidence.dataset.episode_lengths
        self._engine = _engine(transitions, lengths, act_next, units, settings, placement)
        shapes = f"{act_next.shape} {first_act.shape}".encode()
        content = (act_next.tobytes(), first_act.tobytes(), evidence.dataset.content_hash.encode())
        told = json.dumps(asdict(settings)).encode()
        self._digest = hashlib.sha256(b"".join([shapes, *content, told])).hexdigest()

    @property
    def step(self) -> int:
        """Gradient steps taken."""
        return self._engine.step

    def advance(self, num_steps: int) -> Tensor:
        """As :meth:`bcq_exp.engine.engine.Engine.advance`, for all runs: policy by policy."""
        return self._engine.advance(num_steps)

    def estimates(self) -> np.ndarray:
        """Every critic's value of its policy where episodes begin, (P, M); NaN if it diverged."""
        obs, acts = self._first
        found = np.empty((self._num_policies, self._settings.num_members))
        for k in range(found.size):
            policy, member = divmod(k, self._settings.num_members)
            with torch.no_grad():
                value = self._engine.algorithm(k).value(obs, acts[policy])
            assert value is not None
            found[policy, member] = self._units.value(value.double().mean().item())
        return np.where(np.isfinite(found), found, np.nan)

    def fit(self, path: Path, told: Callable[[int], None] = lambda step: None) -> None:
        """Learn to the last step, from what is kept at ``path`` if it is of the same evaluation.

        Args:
            told: called with the steps taken, now and then.
        """
        if path.exists():
            self._take_up(path)
        every = max(1, self._settings.num_steps // 10)
        with self._placement.in_force():
            while (left := self._settings.num_steps - self.step) > 0:
                self.advance(min(every - self.step % every, left))
                self._save(path)
                told(self.step)

    def _save(self, path: Path) -> None:
        states = [self._engine.state_dict(k) for k in range(self._engine.num_runs)]
        content = {"digest": self._digest, "runs": states}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
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
    scale: float

    @classmethod
    def of(cls, transitions: Transitions, action_space: Any, gamma: float) -> _Units:
        size = float(np.abs(transitions.rew).mean(dtype=np.float64))
        horizon = 1 / (1 - gamma) if gamma < 1 else len(transitions)
        return cls(
            ObsNormalizer.of(transitions.obs),
            action_space.low,
            action_space.high,
            size * horizon or 1.0,
        )

    def obs(self, obs: np.ndarray) -> np.ndarray:
        return self.normalizer(obs)

    def act(self, act: np.ndarray) -> np.ndarray:
        return (2 * (act - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def value(self, value: float) -> float:
        """A critic's value in the rewards' own unit."""
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
    episode_lengths: np.ndarray,
    act_next: np.ndarray,
    units: _Units,
    settings: FQESettings,
    placement: Placement,
) -> ParallelEngine:
    """Stacks of runs that share their data; a policy's members are neighbours."""
    dtype, device = placement.precision.dtype, placement.device
    num_rows, sizes = len(transitions), (transitions.obs.shape[1], transitions.act.shape[1])
    table = TransitionTable.of(transitions, dtype, device, units)
    acts = torch.as_tensor(units.act(act_next), dtype=dtype, device=device)
    members = range(settings.num_members)
    rows = torch.stack([_resampled(settings.seed + m, episode_lengths) for m in members])
    rows = rows.to(device)
    streams = [
        HostStream(settings.seed + m, num_rows, settings.batch_size, NoNoise()) for m in members
    ]
    count = len(act_next) * settings.num_members
    at_once = count if device.type == "cuda" else STACK_SIZE if placement.stacks else 1
    rounds = math.ceil(count / (at_once * placement.num_threads))  # even ones: no thread waits
    num_stacks = min(count, rounds * placement.num_threads)
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
        torch.manual_seed(init_seed(settings.seed + member))
        critic = Critic(obs_dim=obs_dim, act_dim=act_dim, hidden_sizes=settings.hidden_sizes)
    critic.to(dtype=placement.precision.dtype, device=placement.device)
    choose_compute_dtype(critic, placement.precision.compute_dtype)
    optim = AdamOptimizerFactory(lr=settings.lr)
    return FQE(critic=critic, critic_optim=optim, gamma=settings.gamma, tau=settings.tau)


def _resampled(seed: int, episode_lengths: Sequence[int] | np.ndarray) -> Tensor:
    """Rows (N,) of as many episodes drawn with replacement; repeated or cut to the N there are."""
    lengths = np.asarray(episode_lengths)
    starts = np.cumsum(lengths) - lengths
    drawn = generator(seed, EPISODES).integers(len(lengths), size=len(lengths))
    rows = np.concatenate([np.arange(starts[e], starts[e] + lengths[e]) for e in drawn])
    return torch.from_numpy(np.resize(rows, lengths.sum()))
