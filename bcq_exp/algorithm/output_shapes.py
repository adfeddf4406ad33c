"""Check the shapes of networks' outputs before training: torch would broadcast wrong ones."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from itertools import chain
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

WIDTHS: dict[type[nn.Module], Callable[[int], int]] = {  # of outputs, by act_dim
    Actor: lambda act_dim: act_dim,
    GaussianActor: lambda act_dim: 2 * act_dim,
    StateCritic: lambda act_dim: act_dim,
    Perturbation: lambda act_dim: act_dim,
    Critic: lambda act_dim: 1,
}
OF_OBSERVATIONS = (Actor, GaussianActor, StateCritic)


@torch.no_grad()
def check_outputs(
    network: nn.Module, kind: type[nn.Module] | None, obs_dim: int, act_dim: int
) -> None:
    """Call a copy of a network with zeros and check the shapes of its outputs.

    Args:
        kind: the class of :mod:`bcq_exp.algorithm.networks` that it stands in for. Of other kinds
            only pure networks are checked, for the broadcasting that they declare.

    Raises:
        ValueError: naming the shapes, or the error of the network.
    """
    if kind not in (*WIDTHS, VAE) and not is_pure(network):
        return
    network = copy.deepcopy(network).eval()
    call = broadcasting(network)
    like = next(chain(network.parameters(), network.buffers()), torch.zeros(()))
    rows = (2, 3) if is_pure(network) else (2,)
    obs = like.new_zeros(2, *[1] * (len(rows) - 1), obs_dim)
    width = WIDTHS[kind](act_dim) if kind in WIDTHS else None
    if hasattr(network, "decode"):
        latent = like.new_zeros(*rows, latent_dim(network))
        _check(call.decode, (obs, latent), rows, act_dim)
    elif kind in OF_OBSERVATIONS or (kind not in WIDTHS and _takes_observations_alone(network)):
        _check(call, (obs.expand(*rows, obs_dim),), rows, width)
    else:
        _check(call, (obs, like.new_zeros(*rows, act_dim)), rows, width)


def _check(
    function: Callable[..., Any], inputs: Sequence[Tensor], rows: tuple[int, ...], width: int | None
) -> None:
    """Check that an output has the shape (*rows, width); without a width, (*rows, ...).

    Raises:
        ValueError: if it has not, or the function fails.
    """
    given = "inputs " + " and ".join(str(tuple(x.shape)) for x in inputs)
    try:
        with torch.random.fork_rng(devices=[]):
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
