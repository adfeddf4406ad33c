"""The hyperparameters of each algorithm: names, types, defaults, ranges and documentation.

The configuration's schema, ``--help``, the constructors and the gradient steps read them here. This
module does not import torch, so that the command line starts fast.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Self

from bcq_exp.ranges import (
    ADVANTAGE_CLIP,
    ALPHA,
    BINS,
    COUNT,
    CQL_ALPHA,
    EXPECTILE,
    GAMMA,
    LMBDA,
    LOGITS_PENALTY,
    NOISE_CLIP,
    POLICY_NOISE,
    TAU,
    TEMPERATURE,
    THRESHOLD,
    Allowed,
    require,
)


def number(default: Any, allowed: Allowed | None, doc: str, *, stackable: bool = True) -> Any:
    """A field of :class:`Hyperparameters`.

    Args:
        allowed: the range; ``None`` is any number.
        doc: the meaning in one line.
        stackable: whether stacked runs may differ in it.
    """
    metadata = {"allowed": allowed, "doc": doc, "stackable": stackable}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers of an algorithm's equations; its own dataclass adds a field for each.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            if (allowed := each.metadata["allowed"]) is not None:
                require(each.name, getattr(self, each.name), allowed)

    @classmethod
    def stackable(cls) -> tuple[str, ...]:
        """Return the names of hyperparameters in which stacked runs may differ."""
        return tuple(f.name for f in fields(cls) if f.metadata["stackable"])

    def with_tensors(self, tensors: Mapping[str, Any]) -> Self:
        """Replace some by tensors: (K,) for K stacked runs, () for a compiled step."""
        changed = copy.copy(self)
        vars(changed).update(tensors)
        return changed


def _update_rate() -> Any:
    return number(0.005, TAU, "update rate of target networks")


def _discount() -> Any:
    return number(0.99, GAMMA, "discount factor")


@dataclass(frozen=True)
class TargetHyperparameters(Hyperparameters):
    """The hyperparameters of an algorithm that learns values with target networks."""

    tau: float = _update_rate()
    gamma: float = _discount()


@dataclass(frozen=True)
class BCQHyperparameters(Hyperparameters):
    lmbda: float = number(0.75, LMBDA, "weight of the minimum of the two critics in the target")
    tau: float = _update_rate()
    gamma: float = _discount()
    num_sampled_action: int = number(
        10,
        COUNT,
        "n, sampled actions per next state in the target",
        stackable=False,  # runs with few samples would wait for those with many
    )


@dataclass(frozen=True)
class TD3BCHyperparameters(TargetHyperparameters):
    alpha: float = number(
        2.5, ALPHA, "weight of the value, divided by its mean, relative to imitation"
    )
    policy_noise: float = number(
        0.2,
        POLICY_NOISE,
        "standard deviation of the target policy's noise, as a fraction of half the actions' range",
    )
    noise_clip: float = number(0.5, NOISE_CLIP, "that noise is clipped to plus and minus this")


@dataclass(frozen=True)
class IQLHyperparameters(TargetHyperparameters):
    expectile: float = number(
        0.7, EXPECTILE, "the paper's tau: 0.5 is the mean of the data's actions, towards 1 the best"
    )
    temperature: float = number(
        3.0, TEMPERATURE, "the paper's beta, of the weight exp(beta A) of an action; 0 is cloning"
    )
    advantage_clip: float = number(100.0, ADVANTAGE_CLIP, "largest weight of an action")


@dataclass(frozen=True)
class CQLHyperparameters(TargetHyperparameters):
    cql_alpha: float = number(5.0, CQL_ALPHA, "weight of the conservative term")
    num_sampled_action: int = number(
        10, COUNT, "n, actions sampled from each of three distributions", stackable=False
    )
    deterministic_backup: bool = number(True, None, "whether the target leaves out the entropy")


@dataclass(frozen=True)
class DQNHyperparameters(TargetHyperparameters):
    num_bins: int = number(
        10,
        BINS,
        "actions in each continuous dimension, evenly from its lowest to its highest",
        stackable=False,
    )


@dataclass(frozen=True)
class DiscreteBCQHyperparameters(TargetHyperparameters):
    threshold: float = number(
        0.3,
        THRESHOLD,
        "least G(a|s) of an allowed action as a share of the largest; 0: double DQN, 1: imitation",
    )
    target_update_freq: int = number(
        1,
        COUNT,
        "steps between moves of the target network; a hard update has tau=1",
        stackable=False,
    )
    logits_penalty: float = number(
        0.01, LOGITS_PENALTY, "weight of the generative model's mean squared logit"
    )


@dataclass(frozen=True)
class FQEHyperparameters(TargetHyperparameters):
    v_min: float = number(-inf, None, "no value lies below")
    v_max: float = number(inf, None, "no value lies above")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_min <= self.v_max:
            raise ValueError(
                f"v_min={self.v_min}, v_max={self.v_max}: v_min must not be above v_max"
            )


ALGORITHMS = {  # algorithms with hyperparameters, by the name in choice files: /schema/NAME@algo
    "bcq": BCQHyperparameters,
    "ddpg": TargetHyperparameters,
    "discrete_bcq": DiscreteBCQHyperparameters,
    "dqn": DQNHyperparameters,
    "td3_bc": TD3BCHyperparameters,
    "iql": IQLHyperparameters,
    "cql": CQLHyperparameters,
}
