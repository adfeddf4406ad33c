"""From the nodes that ``algo`` composes to the algorithm they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pkgutil import resolve_name
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from bcq_exp.algorithm.actions import ActionMap, is_far_from_one
from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.networks import check_broadcasts, choose_compute_dtype, is_pure
from bcq_exp.algorithm.optim import OptimizerFactory, schedule_named
from bcq_exp.algorithm.parts import Parts
from bcq_exp.config.keys import schema_of
from bcq_exp.config.meaning import flattened
from bcq_exp.config.overrides import changed
from bcq_exp.config.schema import RunConfig, algorithm_nodes
from bcq_exp.data.spaces import ActionSpace, act_dim
from bcq_exp.engine.placement import Placement
from bcq_exp.engine.stream import init_seed
from bcq_exp.errors import UserError, first_line
from bcq_exp.ranges import CONSTANT

OURS = "bcq_exp.algorithm."
LEARN = {  # choices of algo by the kind of action space
    Box: ("bcq", "bc", "vae_bc", "td3_bc", "iql", "cql", "ddpg", "dqn"),
    Discrete: ("discrete_bcq", "bc", "dqn"),
}
Place = Callable[[nn.Module], nn.Module]


def algorithm_class(cfg: DictConfig) -> type[OfflineAlgorithm]:
    """The class that ``algo._target_`` names.

    Raises:
        UserError: if it names none, or there are nodes that the class does not read.
    """
    found = _named("algo", cfg.algo._target_)
    if not (isinstance(found, type) and issubclass(found, OfflineAlgorithm)):
        raise UserError(
            f"algo._target_={cfg.algo._target_}: must be a subclass of OfflineAlgorithm"
        )
    if unread := algorithm_nodes(cfg).keys() - set(found.reads):
        for name in sorted(unread):
            if near := get_close_matches(name, [*found.reads, *schema_of(RunConfig)], 1):
                raise UserError(f"{name}: not read by {found.__name__}; did you mean {near[0]}?")
        raise UserError(
            f"{', '.join(sorted(unread))}: not read by {found.__name__}, which reads "
            f"{', '.join(sorted(found.reads))}; begin a file that sets keys outside its own group "
            "with '# @package _global_'"
        )
    return found


def check_names_only_ours(config: Mapping[str, Any], where: str) -> None:
    """Refuse a stored configuration that names code of anyone else's: making it runs that code.

    Each of its nodes may have one ``_target_``, of :mod:`bcq_exp.algorithm`; those of data set and
    trainer are not made from it.

    Raises:
        UserError: for any other, for what else Hydra reads when it makes an object, and for
            interpolations, which call functions.
    """
    for key, value in flattened(config):
        node, _, name = key.rpartition(".")
        if node.partition(".")[0] in ("dataset", "online"):
            continue
        if name == "_target_" and node and "." not in node:
            is_fine = _is_ours(str(value))
        else:
            is_fine = not (_is_special(name) or _holds(value, _is_special_or_interpolates))
        if not is_fine:
            raise UserError(
                f"{where}: its checkpoint names {key}={value}, which is not part of bcq_exp; give "
                "trust=true (in Python trusted=True) if you trust the source of the folder"
            )


def _is_ours(path: str) -> bool:
    """Whether a path names a class of an algorithm's modules, not one that they import."""
    if not path.startswith(OURS):
        return False
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and found.__module__.startswith(OURS)


def _is_special(text: Any) -> bool:
    return isinstance(text, str) and len(text) > 2 and text[0] == text[-1] == "_"


def _is_special_or_interpolates(text: Any) -> bool:
    return _is_special(text) or (isinstance(text, str) and "${" in text)


def _holds(value: Any, is_so: Callable[[Any], bool]) -> bool:
    """Whether a value, or anything in it, is so."""
    if isinstance(value, Mapping):
        return any(_holds(x, is_so) for pair in value.items() for x in pair)
    if isinstance(value, list | tuple):
        return any(_holds(x, is_so) for x in value)
    return is_so(value)


def with_scaling_decided(cfg: DictConfig, action_space: ActionSpace) -> DictConfig:
    """The configuration with ``true`` or ``false`` for ``policy.action_scaling=auto``."""
    if OmegaConf.select(cfg, "policy.action_scaling") != "auto":
        return cfg
    scales = isinstance(action_space, Box) and is_far_from_one(action_space)
    return changed(cfg, {"policy": {"action_scaling": scales}})


def build_algorithm(
    cfg: DictConfig, observation_space: Box, action_space: ActionSpace, placement: Placement
) -> OfflineAlgorithm:
    """The algorithm with initial weights that follow from ``cfg.seed`` alone, placed.

    Raises:
        UserError: if a part is unknown to the algorithm or refused by its constructor.
    """
    kind = algorithm_class(cfg)
    _check_learns(kind, action_space)
    nodes = algorithm_nodes(with_scaling_decided(cfg, action_space))
    policy = {str(name): value for name, value in nodes.pop("policy", {}).items()}
    low, high = _bounds(policy, action_space)
    if isinstance(action_space, Discrete):
        policy = {}
    sizes = {"obs_dim": observation_space.shape[0], "act_dim": act_dim(action_space)}
    place = partial(_place, placement=placement)

    def network(name: str, /, **options: Any) -> nn.Module:
        return _network(name, _node(nodes, name), place, **{**sizes, **options})

    def optimizer(name: str) -> OptimizerFactory:
        return _optimizer(_node(nodes, name), cfg.trainer.num_steps)

    parts = Parts(
        network=network,
        optimizer=optimizer,
        policy={**policy, "action_space": action_space, "observation_space": observation_space},
        hyperparameters={k: value for k, value in cfg.algo.items() if k != "_target_"},
        sizes=sizes,
        bounds={"low": low, "high": high},
        place=place,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed(cfg.seed))
        try:
            return kind.build(parts)
        except (TypeError, ValueError) as error:
            raise UserError(f"algo={kind.__name__}: {error}") from error


def _check_learns(kind: type[OfflineAlgorithm], action_space: ActionSpace) -> None:
    """Refuse an algorithm for actions of a kind that it does not learn.

    Raises:
        UserError: naming those that do.
    """
    if not isinstance(action_space, kind.action_spaces):
        others = next(names for space, names in LEARN.items() if isinstance(action_space, space))
        raise UserError(
            f"algo={kind.__name__}: does not learn actions of {action_space}; use "
            f"algo={', '.join(others)}"
        )


def _bounds(policy: Mapping[str, Any], action_space: ActionSpace) -> tuple[Any, Any]:
    """Lowest and highest action (A,) in the policy's unit; None of discrete ones.

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
    """What a ``_target_`` names.

    Raises:
        UserError: if it names nothing.
    """
    try:
        return resolve_name(path)
    except Exception as error:  # whatever importing somebody's module raises
        raise UserError(f"{node}._target_={path}: {first_line(error)}") from error


def _node(nodes: Mapping[str, DictConfig], name: str) -> DictConfig:
    """A group's node, whose ``_target_`` is there.

    Raises:
        UserError: if it is not.
    """
    if name not in nodes or "_target_" not in nodes[name]:
        raise UserError(f"{name}: has no _target_; name one in its choice file")
    _named(name, nodes[name]._target_)
    return nodes[name]


def _optimizer(node: DictConfig, num_steps: int) -> OptimizerFactory:
    options = dict(node)
    name, final = options.pop("schedule", CONSTANT), options.pop("final_lr_fraction", 0.0)
    schedule = schedule_named(name, num_steps, final)
    return instantiate(options, _partial_=True, _recursive_=False)(schedule=schedule)


def _network(
    name: str, node: DictConfig, place: Place, *, obs_dim: int, act_dim: int, **options: Any
) -> nn.Module:
    """Its type and place are final before an optimizer refers to its parameters.

    Raises:
        UserError: if it is not what it declares to be.
    """
    sizes = {"obs_dim": obs_dim, "act_dim": act_dim, "_recursive_": False}
    network = place(instantiate(node, **sizes, **options))
    if is_pure(network):
        try:
            check_broadcasts(network, obs_dim, act_dim)
        except ValueError as error:
            raise UserError(
                f"{name}: {type(network).__name__} declares pure = True, but does not "
                f"broadcast inputs (B, 1, O) and (B, n, A): {error}"
            ) from error
    return network


def _place(module: nn.Module, placement: Placement) -> nn.Module:
    module.to(dtype=placement.precision.dtype, device=placement.device)
    choose_compute_dtype(module, placement.precision.compute_dtype)
    return module
