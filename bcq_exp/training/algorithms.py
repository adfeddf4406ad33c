"""Build an algorithm from the groups that ``algo`` composes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, flatdim
from hydra.utils import instantiate
from torch import nn

from bcq_exp.algorithm.actions import ActionMap, is_far_from_one
from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.networks import (
    VAE,
    Actor,
    Critic,
    GaussianActor,
    Perturbation,
    StateCritic,
    choose_compute_dtype,
    is_pure,
)
from bcq_exp.algorithm.optim import OptimizerFactory, schedule_named
from bcq_exp.algorithm.output_shapes import check_outputs
from bcq_exp.algorithm.parts import Parts
from bcq_exp.config.keys import schema_of
from bcq_exp.config.schema import RunConfig
from bcq_exp.data.spaces import ActionSpace
from bcq_exp.engine.placement import Placement
from bcq_exp.engine.stream import init_seed
from bcq_exp.errors import UserError, first_line
from bcq_exp.ranges import CONSTANT
from bcq_exp.training.spec import AlgorithmSpec, RunSpec

LEARN = {  # choices of algo by the kind of action space
    Box: ("bcq", "bc", "vae_bc", "td3_bc", "iql", "cql", "ddpg", "dqn"),
    Discrete: ("discrete_bcq", "bc", "dqn"),
}
NETWORKS: dict[type[nn.Module], str] = {  # the override that chooses each kind
    Actor: "actor=deterministic",
    GaussianActor: "actor=gaussian",
    Perturbation: "actor=perturbation",
    Critic: "critic=state_action",
    StateCritic: "critic=state",
    VAE: "vae=mlp",
}


def algorithm_class(spec: AlgorithmSpec) -> type[OfflineAlgorithm]:
    """Return the class that ``algo._target_`` names.

    Raises:
        UserError: if it names none, there are groups that the class does not read, or a network is
            of another kind than the class works with.
    """
    found = _named("algo", spec.target)
    if not (isinstance(found, type) and issubclass(found, OfflineAlgorithm)):
        raise UserError(f"algo._target_={spec.target}: must be a subclass of OfflineAlgorithm")
    if unread := spec.groups.keys() - set(found.reads):
        raise UserError(_unread_message(found, spec, sorted(unread)))
    for name, kind in found.network_kinds.items():
        _check_kind(found, name, kind, spec.groups.get(name, {}).get("_target_"))
    return found


def _unread_message(
    algorithm: type[OfflineAlgorithm], spec: AlgorithmSpec, unread: Sequence[str]
) -> str:
    """Explain groups that an algorithm does not read."""
    line = f"{', '.join(unread)}: not read by {algorithm.__name__}"
    below = [value for name in unread for value in spec.groups[name].values()]
    if any(isinstance(value, Mapping) for value in below):  # groups, below that of their file
        return (
            f"{line}; begin a file that sets keys outside its own group with '# @package _global_'"
        )
    known = [*algorithm.reads, *schema_of(RunConfig)]
    for name in unread:
        if near := get_close_matches(name, known, 1):
            return f"{name}: not read by {algorithm.__name__}; did you mean {near[0]}?"
    reads = ", ".join(sorted(algorithm.reads))
    return f"{line}, which reads {reads}; delete it, or choose an algo= that reads it"


def _check_kind(
    algorithm: type[OfflineAlgorithm], name: str, kind: type[nn.Module], target: str | None
) -> None:
    """Refuse a bcq_exp network of another kind.

    Raises:
        UserError: naming a choice of the right kind.
    """
    found = None if target is None else _named(name, target)
    if not isinstance(found, type) or issubclass(found, kind):
        return
    if issubclass(found, tuple(NETWORKS)):
        group, _, choice = NETWORKS[kind].partition("=")
        key = group if group == name else f"{group}@{name}"
        raise UserError(
            f"{name}._target_={target}: {algorithm.__name__} needs a network of kind "
            f"{kind.__name__}; use {key}={choice}"
        )


def with_scaling_decided(spec: RunSpec, action_space: ActionSpace) -> RunSpec:
    """Resolve ``policy.action_scaling=auto`` of a run to true or false."""
    policy = spec.config.get("policy", {})
    if policy.get("action_scaling") != "auto":
        return spec
    scales = isinstance(action_space, Box) and is_far_from_one(action_space)
    return replace(spec, config={**spec.config, "policy": {**policy, "action_scaling": scales}})


def build_algorithm(
    spec: AlgorithmSpec,
    observation_space: Box,
    action_space: ActionSpace,
    placement: Placement,
    *,
    checks: bool = True,
) -> OfflineAlgorithm:
    """Build the algorithm on its device; initial weights depend on its seed only.

    Args:
        checks: whether to check the outputs of its networks, before training.

    Raises:
        UserError: if the algorithm does not know a part, or its constructor refuses it.
    """
    kind = algorithm_class(spec)
    _check_learns(kind, action_space)
    policy = spec.groups.get("policy", {})
    low, high = _bounds(policy, action_space)
    if isinstance(action_space, Discrete):
        policy = {}
    parts = ConfiguredParts(
        spec,
        placement,
        policy={**policy, "action_space": action_space, "observation_space": observation_space},
        hyperparameters=spec.hyperparameters,
        sizes={"obs_dim": observation_space.shape[0], "act_dim": flatdim(action_space)},
        bounds={"low": low, "high": high},
        kinds=kind.network_kinds,
        checks=checks,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed(spec.seed))
        try:
            built = kind.build(parts)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UserError(f"algo={kind.__name__}: {error}") from error
    if not built.optimizers:
        raise UserError(f"algo={kind.__name__}: its optimizers are empty; build must fill them")
    return built


@dataclass
class ConfiguredParts(Parts):
    """Parts whose networks and optimizers Hydra instantiates."""

    spec: AlgorithmSpec
    placement: Placement
    policy: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    sizes: Mapping[str, int]
    bounds: Mapping[str, Any]
    kinds: Mapping[str, type[nn.Module]]
    checks: bool

    def network(self, name: str, /, **options: Any) -> nn.Module:
        sizes = {**self.sizes, **options}
        network = self.place(instantiate(self._group(name), **sizes))
        if self.checks:
            self._check(network, name, sizes["obs_dim"], sizes["act_dim"])
        return network

    def optimizer(self, name: str, /) -> OptimizerFactory:
        options = dict(self._group(name))
        schedule, final = options.pop("schedule", CONSTANT), options.pop("final_lr_fraction", 0.0)
        make = instantiate(options, _partial_=True, _recursive_=False)
        return make(schedule=schedule_named(schedule, self.spec.num_steps, final))

    def place(self, module: Any, /) -> Any:
        """Set dtype and device before an optimizer refers to the parameters."""
        precision = self.placement.precision
        module.to(dtype=precision.dtype, device=self.placement.device)
        choose_compute_dtype(module, precision.compute_dtype)
        return module

    def _check(self, network: nn.Module, name: str, obs_dim: int, act_dim: int) -> None:
        """Check the shapes of a network's outputs.

        Raises:
            UserError: naming what is needed.
        """
        kind = self.kinds.get(name)
        placed = {"dtype": self.placement.precision.dtype, "device": self.placement.device}
        try:
            check_outputs(network, kind, obs_dim, act_dim, **placed)
        except ValueError as error:
            needs = [] if kind is None else [f"the output of {kind.__name__} is needed"]
            if is_pure(network):
                needs.append("pure = True requires that (B, 1, O) broadcasts against (B, n, A)")
            line = "; ".join([str(error), *needs])
            raise UserError(f"{name}: {type(network).__name__}: {line}") from error

    def _group(self, name: str) -> Mapping[str, Any]:
        """Return the keys of a group.

        Raises:
            UserError: if its ``_target_`` is missing or cannot be imported.
        """
        group = self.spec.groups.get(name, {})
        if "_target_" not in group:
            raise UserError(f"{name}: has no _target_; name one in its choice file")
        _named(name, group["_target_"])
        return group


def _check_learns(kind: type[OfflineAlgorithm], action_space: ActionSpace) -> None:
    """Refuse an algorithm that does not support the action space.

    Raises:
        UserError: naming algorithms that do.
    """
    if not isinstance(action_space, kind.action_spaces):
        others = next(names for space, names in LEARN.items() if isinstance(action_space, space))
        raise UserError(
            f"algo: {kind.__name__} does not support the action space {action_space}; choose "
            f"algo={', '.join(others[:-1])} or {others[-1]}"
        )


def _bounds(policy: Mapping[str, Any], action_space: ActionSpace) -> tuple[Any, Any]:
    """Return lowest and highest action (A,) in the policy's unit; None if discrete.

    Raises:
        UserError: for keys of ``policy`` that the action space does not allow.
    """
    scaling = policy.get("action_scaling", False)
    if isinstance(action_space, Discrete):
        if scaling:
            raise UserError(
                f"policy.action_scaling=true: actions of {action_space} have no scale; use auto"
            )
        return None, None
    method = policy.get("action_bound_method", "clip")
    try:
        return ActionMap(action_space, action_scaling=scaling, bound_method=method).range
    except (TypeError, ValueError) as error:
        raise UserError(f"policy: {error}") from error


def _named(node: str, path: str) -> Any:
    """Import what a ``_target_`` names.

    Raises:
        UserError: if it cannot be imported.
    """
    try:
        return resolve_name(path)
    except Exception as error:  # any error of importing a custom module
        raise UserError(f"{node}._target_={path}: {first_line(error)}") from error
