"""Check the shapes of networks' outputs before training: torch would broadcast wrong ones."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcq_exp.algorithm.networks import (
    VAE,
    Actor,
    Critic,
    GaussianActor,
    Perturbation,
    StateCritic,
    broadcasting,
    is_pure,
    latent_dim,
)
from bcq_exp.errors import first_line

log = logging.getLogger(__name__)

WIDTHS: dict[type[nn.Module], Callable[[int], int]] = {  # of outputs, by act_dim
    Actor: lambda act_dim: act_dim,
    GaussianActor: lambda act_dim: 2 * act_dim,
    StateCritic: lambda act_dim: act_dim,
    Perturbation: lambda act_dim: act_dim,
    Critic: lambda act_dim: 1,
    VAE: lambda act_dim: act_dim,
}
OF_OBSERVATIONS = (Actor, GaussianActor, StateCritic)


@torch.no_grad()
def check_outputs(
    network: nn.Module,
    kind: type[nn.Module] | None,
    obs_dim: int,
    act_dim: int,
    **placed: Any,
) -> None:
    """Call a copy of a network with random inputs and check the shapes of its outputs.

    A network that cannot be copied is not checked.

    Args:
        kind: the class of :mod:`bcq_exp.algorithm.networks` that it replaces. Of other kinds only
            pure networks are checked, for the broadcasting that they declare.
        placed: the ``dtype`` and ``device`` of its inputs.

    Raises:
        ValueError: naming the shapes, or the error of the network.
    """
    if kind not in WIDTHS and not is_pure(network):
        return
    try:
        network = copy.deepcopy(network).eval()
    except Exception as error:  # of custom code
        log.debug("%s is not checked: %s", type(network).__name__, error)
        return
    call: Any = broadcasting(network)
    obs_rows, rows = ((2, 1), (2, 3)) if is_pure(network) else ((2,), (2,))
    width = WIDTHS[kind](act_dim) if kind in WIDTHS else None

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, **placed)

    with torch.random.fork_rng(devices=[]):
        obs, act = normal(*obs_rows, obs_dim), normal(*rows, act_dim)
        if kind is VAE or (width is None and hasattr(network, "decode")):
            latent = normal(*rows, latent_dim(network))
            _check(lambda *given: call.decode(*given), (obs, latent), rows, act_dim)
        elif kind in OF_OBSERVATIONS or (width is None and _takes_observations_alone(network)):
            _check(call, (normal(*rows, obs_dim),), rows, width)
        else:
            _check(call, (obs, act), rows, width)
        if kind is VAE:
            eps = normal(2, latent_dim(network))
            inputs = (normal(2, obs_dim), normal(2, act_dim))
            _check(lambda *given: call(*given, eps)[0], inputs, (2,), act_dim)


def _check(
    function: Callable[..., Any], inputs: Sequence[Tensor], rows: tuple[int, ...], width: int | None
) -> None:
    """Check that an output has the shape (*rows, width); without a width, (*rows, ...).

    Raises:
        ValueError: if it has not, or the function fails.
    """
    given = "inputs " + " and ".join(str(tuple(x.shape)) for x in inputs)
    try:
        found = function(*inputs)
    except Exception as error:  # of custom code
        raise ValueError(f"{given} give {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(found, Tensor):
        raise ValueError(f"{given} give a {type(found).__name__}, not a tensor")
    shape = tuple(found.shape)
    if width is None and shape[: len(rows)] != rows:
        raise ValueError(f"{given} give the shape {shape}")
    if width is not None and shape != (*rows, width):
        raise ValueError(f"{given} give the shape {shape}, not {(*rows, width)}")


def _takes_observations_alone(network: nn.Module) -> bool:
    parameters = inspect.signature(network.forward).parameters.values()
    return sum(p.default is p.empty and p.kind != p.VAR_KEYWORD for p in parameters) == 1
