"""The networks of the algorithms, and the interface of custom networks.

A network that sets ``pure = True`` declares that

- its ``forward`` (and a VAE's ``decode``) runs the same torch kernels on the same tensors each
  time: no branch on values, no ``.item()``, no random numbers, no state outside of parameters and
  buffers;
- observations (B, 1, O) broadcast with actions (B, n, A), as :func:`concatenated` does.

Then its steps are compiled and stacked with those of other runs, and its linear layers follow
``trainer.precision``. Any other network is called with plain rows, (R, O) and (R, A).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bcq_exp.algorithm.mlp import MLP, HasComputeDtype, Linear
from bcq_exp.ranges import COUNT, KL_WEIGHT, LATENT_CLIP, PHI, require

LOG_STD_RANGE = (-4.0, 15.0)  # the authors' clamp: "for numerical stability"
PAPER_LATENT_CLIP = 0.5  # section 4.1's sampled latents
PAPER_KL_WEIGHT = 0.5  # of the authors' code


def concatenated(obs: Tensor, x: Tensor) -> Tensor:
    """``[obs, x]`` along the last dimension, with (B, 1, O) broadcast with (B, n, X)."""
    return torch.cat([obs.expand(*x.shape[:-1], obs.shape[-1]), x], -1)


class ActionRange(nn.Module):
    """Buffers of the actions the policy works in: bounds, centre and half-width, (A,) each.

    Args:
        low, high: (A,) or numbers; None of discrete actions, which have no buffers.

    Raises:
        ValueError: if a bound is not finite, or ``low`` not below ``high``.
    """

    pure = True
    low: Tensor | Any
    high: Tensor | Any
    center: Tensor
    scale: Tensor

    def __init__(self, low: Any, high: Any) -> None:
        super().__init__()
        if low is None and high is None:
            for name in ("low", "high", "center", "scale"):
                self.register_buffer(name, None)
            return
        # copies, because loading a state writes into buffers
        low, high = (
            torch.as_tensor(x, dtype=torch.get_default_dtype()).clone() for x in (low, high)
        )
        if not (torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"action bounds must be finite with low < high, not {low} and {high}")
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("center", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)


class Actor(ActionRange):
    """mu(s), a deterministic policy: ``forward(obs)`` (..., O) -> (..., A), a tanh of the range.

    Without bounds its outputs are the logits of ``act_dim`` discrete actions.

    Args:
        obs_dim, act_dim: O and A.
        hidden_sizes: units of each hidden layer.
        low, high: bounds of the action, (A,) or numbers, in the policy's unit; None of discrete
            actions.

    Raises:
        ValueError: if a bound is not finite, or ``low`` not below ``high``.
    """

    def __init__(
        self,
        *,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        low: Any = -1.0,
        high: Any = 1.0,
    ) -> None:
        super().__init__(low, high)
        self.net = MLP(obs_dim, hidden_sizes, act_dim)

    def forward(self, obs: Tensor) -> Tensor:
        if self.low is None:
            return self.net(obs)
        return self.center.addcmul(self.scale, self.net(obs).tanh())


class UnitActions(ActionRange):
    """Actions in units of half their range: [low, high] is [-1, 1]."""

    def forward(self, act: Tensor) -> Tensor:
        """Actions (..., A) in these units."""
        return (act - self.center) / self.scale

    def decode(self, unit: Tensor) -> Tensor:
        """The inverse of :meth:`forward`."""
        return self.center.addcmul(self.scale, unit)


class GaussianActor(nn.Module):
    """A Gaussian in each state: ``forward(obs)`` (..., O) -> (..., 2 A), means and log std.

    Where the action is bounded, the algorithm that calls it squashes the mean or the sample.

    Args:
        obs_dim, act_dim: O and A.
        hidden_sizes: units of each hidden layer.
        state_dependent_std: whether the log std is a function of the state; else it is A
            parameters, which start at 0.
    """

    pure = True
    log_std: nn.Parameter | None

    def __init__(
        self,
        *,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        state_dependent_std: bool = True,
    ) -> None:
        super().__init__()
        self.net = MLP(obs_dim, hidden_sizes, 2 * act_dim if state_dependent_std else act_dim)
        log_std = None if state_dependent_std else nn.Parameter(torch.zeros(act_dim))
        self.register_parameter("log_std", log_std)

    def forward(self, obs: Tensor) -> Tensor:
        out = self.net(obs)
        if self.log_std is None:
            return out
        return torch.cat([out, self.log_std.expand_as(out)], -1)


class SquashedMean(nn.Module):
    """mu(s), the policy of a Gaussian actor at evaluation: a tanh of its mean.

    ``forward(obs)`` (B, O) -> (B, A), in the policy's unit.

    Args:
        gaussian: as :class:`GaussianActor`.
        unit: bounds of the actions.
    """

    def __init__(self, gaussian: nn.Module, unit: UnitActions) -> None:
        super().__init__()
        self.gaussian = gaussian
        self.unit = unit

    def forward(self, obs: Tensor) -> Tensor:
        mean, _ = self.gaussian(obs).chunk(2, -1)
        return self.unit.decode(mean.tanh())


class Perturbation(ActionRange):
    """xi_phi(s, a, Phi): the action moved by at most ``phi`` of half its range, kept in range.

    ``forward(obs, act)`` takes (..., O) and (..., A), broadcasts the former's leading dimensions,
    and returns the perturbed action (..., A). Equation 11; max perturbation Phi of section 5.

    Args:
        obs_dim, act_dim: O and A.
        hidden_sizes: units of each hidden layer.
        low, high: bounds of the action, (A,) or numbers, in the policy's unit.
        phi: largest perturbation as a fraction of half the range of each dimension, at least 0.

    Raises:
        ValueError: if ``phi`` is negative, a bound not finite, or ``low`` not below ``high``.
    """

    phi: Tensor

    def __init__(
        self,
        *,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        low: Any = -1.0,
        high: Any = 1.0,
        phi: float = 0.05,
    ) -> None:
        super().__init__(low, high)
        require("phi", phi, PHI)
        # a tensor, so that stacked runs may differ in it; in float64 until the module is converted
        self.register_buffer("phi", torch.tensor(phi, dtype=torch.float64))
        self.net = MLP(obs_dim + act_dim, hidden_sizes, act_dim)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        xi = self.net(concatenated(obs, act)).tanh()
        return act.addcmul(self.phi * self.scale, xi).clamp(self.low, self.high)


class Critic(nn.Module):
    """Q_theta(s, a): ``forward(obs, act)`` takes (..., O) and (..., A) and returns (..., 1).

    Args:
        obs_dim, act_dim: O and A.
        hidden_sizes: units of each hidden layer.
    """

    pure = True

    def __init__(self, *, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.net = MLP(obs_dim + act_dim, hidden_sizes, 1)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.net(concatenated(obs, act))


class StateCritic(nn.Module):
    """Values of a state's discrete actions: ``forward(obs)`` (..., O) -> (..., ``act_dim``).

    Args:
        obs_dim: O.
        act_dim: how many values.
        hidden_sizes: units of each hidden layer.
    """

    pure = True

    def __init__(self, *, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.net = MLP(obs_dim, hidden_sizes, act_dim)

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(obs)


class Counter(nn.Module):
    """Counts a run's steps in a tensor, which compiled and stacked steps can change.

    It is saved with the parameters, and no optimizer moves it.
    """

    pure = True

    def __init__(self) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(()), requires_grad=False)


class VAE(ActionRange):
    """G_omega(a | s): a conditional VAE over actions (section 4.1 and the authors' code).

    Args:
        obs_dim, act_dim: O and A.
        hidden_sizes: units of each hidden layer, of the encoder and of the decoder.
        latent_dim: size L of the latent, at least 1; ``None`` is the paper's 2 * ``act_dim``.
        low, high: bounds of the action, (A,) or numbers, in the policy's unit; the decoder ends in
            a tanh of that range.
        latent_clip: latents drawn from the prior are clipped to plus and minus this, above 0.
        kl_weight: weight of the KL term relative to the reconstruction error, at least 0.
        kl_warmup: gradient steps over which that weight rises linearly from 0, at least 1; ``None``
            is the published algorithm, with the same weight at every step.

    Raises:
        ValueError: if a number is out of its range, a bound not finite, or ``low`` not below
            ``high``.
    """

    latent_clip: Tensor
    kl_weight: Tensor

    def __init__(
        self,
        *,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        latent_dim: int | None = None,
        low: Any = -1.0,
        high: Any = 1.0,
        latent_clip: float = PAPER_LATENT_CLIP,
        kl_weight: float = PAPER_KL_WEIGHT,
        kl_warmup: int | None = None,
    ) -> None:
        super().__init__(low, high)
        self.latent_dim = 2 * act_dim if latent_dim is None else latent_dim
        require("latent_dim", self.latent_dim, COUNT)
        require("latent_clip", latent_clip, LATENT_CLIP)
        require("kl_weight", kl_weight, KL_WEIGHT)
        self.kl_warmup = kl_warmup
        if kl_warmup is not None:
            require("kl_warmup", kl_warmup, COUNT)
            self.steps = Counter()
        # tensors, so that stacked runs may differ in them; not in checkpoints
        for name, value in (("latent_clip", latent_clip), ("kl_weight", kl_weight)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)
        self.encoder = MLP(obs_dim + act_dim, hidden_sizes, 2 * self.latent_dim)
        self.decoder = MLP(obs_dim + self.latent_dim, hidden_sizes, act_dim)

    def forward(
        self, obs: Tensor, act: Tensor, eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, A), posterior mean (B, L) and standard deviation (B, L).

        ``eps`` (B, L) is the standard normal of the reparametrization; drawn here if not given.
        """
        mean, log_std = self.encoder(concatenated(obs, act)).chunk(2, -1)
        std = log_std.clamp(*LOG_STD_RANGE).exp()
        eps = torch.randn_like(std) if eps is None else eps
        return self.decode(obs, mean.addcmul(std, eps)), mean, std

    def decode(self, obs: Tensor, latent: Tensor | None = None) -> Tensor:
        """Actions (..., A) for observations (..., O) and latents (..., L).

        Without latents, one a row is drawn from the clipped prior.
        """
        if latent is None:
            latent = torch.randn(
                *obs.shape[:-1], self.latent_dim, dtype=obs.dtype, device=obs.device
            )
            latent = latent.clamp(-self.latent_clip, self.latent_clip)
        return self.center.addcmul(self.scale, self.decoder(concatenated(obs, latent)).tanh())


class _Rows:
    """Gives a network that takes plain rows, (R, O) with (R, X), the broadcasting of pure ones.

    The observation is repeated row by row (``repeat_interleave``). A noise or latent is passed on
    where the VAE's signature takes one; it has width zero for a VAE without a ``latent_dim``,
    which draws its own (see :func:`latent_dim`).
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:  # only reached when the name is missing
        return getattr(self._module, name)

    def parameters(self) -> Iterator[Tensor]:
        """Return the parameters of the network."""
        return self._module.parameters()

    def __call__(self, obs: Tensor, *inputs: Tensor) -> Any:
        if not inputs:  # an actor: observations alone
            return self._module(obs)
        act, *noise = inputs
        rows = _as_rows(obs, act)
        out = self._module(*rows, *(x for x in noise if _takes(self._module.forward, *rows, x)))
        if isinstance(out, tuple):  # the VAE, which sees one action an observation
            return out
        return out.unflatten(0, act.shape[:-1])

    def decode(self, obs: Tensor, latent: Tensor) -> Tensor:
        decode: Any = self._module.decode
        rows = _as_rows(obs, latent)
        act = decode(*rows) if _takes(decode, *rows) else decode(rows[0])
        return act.unflatten(0, latent.shape[:-1])


def _as_rows(obs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    lead = x.dim() - 1
    obs = obs.expand(*x.shape[:-1], *obs.shape[lead:])
    # reshape, as flatten loses the rows of a latent of width zero
    return obs.flatten(0, lead - 1), x.reshape(prod(x.shape[:-1]), x.shape[-1])


def _takes(function: Callable[..., Any], *inputs: Tensor) -> bool:
    """Whether the last input has a width and the function's signature takes it."""
    if inputs[-1].shape[-1] == 0:
        return False
    try:
        inspect.signature(function).bind(*inputs)
    except TypeError:
        return False
    return True


def is_pure(network: Any) -> bool:
    """Whether a network declares that it may be compiled and stacked (see above)."""
    return getattr(network, "pure", False) is True


def choose_compute_dtype(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Compute the products of a network's MLPs, and of a pure one's linear layers, in ``dtype``."""
    for part in network.modules():
        if dtype is not None and is_pure(network) and type(part) is nn.Linear:
            part.__class__ = Linear
        if isinstance(part, HasComputeDtype):
            part.compute_dtype = dtype


def broadcasting(module: nn.Module) -> Any:
    """Return the network as losses call it: wrapped in :class:`_Rows` unless it is pure."""
    return module if is_pure(module) else _Rows(module)


def latent_dim(vae: nn.Module) -> int:
    """Width of the latent drawn for a VAE; 0 for a VAE that draws its own."""
    return int(getattr(vae, "latent_dim", 0))


def latent_clip(vae: Any) -> Any:
    """The bound at which latents of the prior are clipped; the paper's if the VAE has none."""
    return getattr(vae, "latent_clip", PAPER_LATENT_CLIP)


def next_kl_weight(vae: Any) -> Any:
    """The weight of the KL term in the VAE's next loss; the authors' if the VAE has none.

    A VAE with a warm-up counts the step.
    """
    weight, warmup = getattr(vae, "kl_weight", PAPER_KL_WEIGHT), getattr(vae, "kl_warmup", None)
    if warmup is None:
        return weight
    count = vae.steps.count
    share = (count / warmup).clamp(max=1)
    count.add_(1)
    return weight * share


def redrawn(network: nn.Module) -> nn.Module:
    """A copy of a network with its own random weights, the same on any device, in any dtype.

    Raises:
        ValueError: if no layer has ``reset_parameters()``: the copy would be equal.
    """
    clone = copy.deepcopy(network)
    drawn = copy.deepcopy(network).to("cpu", torch.get_default_dtype())
    for module, source in zip(clone.modules(), drawn.modules(), strict=True):
        reset = getattr(source, "reset_parameters", None)
        if callable(reset):
            reset()
            module.load_state_dict(source.state_dict())
    pairs = list(zip(clone.parameters(), network.parameters(), strict=True))
    if pairs and all(torch.equal(new, old) for new, old in pairs):
        raise ValueError(
            f"critic2=None: no layer of {type(network).__name__} has reset_parameters(), so the "
            "second critic would have the weights of the first; pass critic2"
        )
    return clone
