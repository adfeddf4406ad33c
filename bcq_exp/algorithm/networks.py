"""The three networks of BCQ, and what lets a network of one's own take their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bcq_exp.algorithm.mlp import MLP

LOG_STD_RANGE = (-4.0, 15.0)  # the authors' clamp: "for numerical stability"


def beside(obs: Tensor, x: Tensor) -> Tensor:
    """``[obs, x]`` along the last dimension, with (B, 1, O) broadcast beside (B, n, X)."""
    return torch.cat([obs.expand(*x.shape[:-1], obs.shape[-1]), x], -1)


class _ActionRange(nn.Module):
    """Bounds, centre and half-width of the actions the policy works in, (A,) each."""

    low: Tensor
    high: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, low: Any, high: Any) -> None:
        super().__init__()
        low, high = (torch.as_tensor(x, dtype=torch.get_default_dtype()) for x in (low, high))
        if not (torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"action bounds must be finite with low < high, not {low} and {high}")
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("center", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)


class Perturbation(_ActionRange):
    """xi_phi(s, a, Phi): the action moved by at most ``phi`` of half its range, kept in range.

    ``forward(obs, act)`` takes (..., O) and (..., A), broadcasts the former's leading dimensions,
    and returns the perturbed action (..., A). Equation 11; max perturbation Phi of section 5.

    Args:
        low, high: bounds of the action, (A,), in the policy's unit.
        phi: largest perturbation as a fraction of half the range of each dimension.
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
        # a tensor, so that stacked runs may differ in it; in float64 until the module is converted
        self.register_buffer("phi", torch.tensor(phi, dtype=torch.float64))
        self.net = MLP(obs_dim + act_dim, hidden_sizes, act_dim)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        xi = self.net(beside(obs, act)).tanh()
        return act.addcmul(self.phi * self.scale, xi).clamp(self.low, self.high)


class Critic(nn.Module):
    """Q_theta(s, a): ``forward(obs, act)`` takes (..., O) and (..., A) and returns (..., 1)."""

    def __init__(self, *, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.net = MLP(obs_dim + act_dim, hidden_sizes, 1)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.net(beside(obs, act))


class VAE(_ActionRange):
    """G_omega(a | s): a conditional VAE over actions (section 4.1 and the authors' code).

    Args:
        latent_dim: size of the latent; ``None`` is the paper's 2 * ``act_dim``.
        low, high: bounds of the action, (A,), in the policy's unit; the decoder ends in a tanh of
            that range.
        latent_clip: latents drawn from the prior are clipped to plus and minus this.
        kl_weight: weight of the KL term beside the reconstruction error.
    """

    def __init__(
        self,
        *,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        latent_dim: int | None = None,
        low: Any = -1.0,
        high: Any = 1.0,
        latent_clip: float = 0.5,
        kl_weight: float = 0.5,
    ) -> None:
        super().__init__(low, high)
        self.latent_dim = 2 * act_dim if latent_dim is None else latent_dim
        self.latent_clip = latent_clip
        self.kl_weight = kl_weight
        self.encoder = MLP(obs_dim + act_dim, hidden_sizes, 2 * self.latent_dim)
        self.decoder = MLP(obs_dim + self.latent_dim, hidden_sizes, act_dim)

    def forward(
        self, obs: Tensor, act: Tensor, eps: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, A), posterior mean (B, L) and standard deviation (B, L).

        ``eps`` (B, L) is the standard normal of the reparametrization; drawn here if not given.
        """
        mean, log_std = self.encoder(beside(obs, act)).chunk(2, -1)
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
        return self.center.addcmul(self.scale, self.decoder(beside(obs, latent)).tanh())


class _Rows:
    """Gives a network that takes plain rows, (R, O) with (R, X), the broadcasting of ours.

    The observation is repeated row by row (``repeat_interleave``). A noise or latent of width zero
    stands for a VAE that draws its own (see :func:`latent_dim`): it is not passed on.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def parameters(self) -> Iterator[Tensor]:
        """Those of the network."""
        return self._module.parameters()

    def __call__(self, obs: Tensor, act: Tensor, *noise: Tensor) -> Any:
        out = self._module(*_as_rows(obs, act), *(x for x in noise if x.shape[-1]))
        if isinstance(out, tuple):  # the VAE, which sees one action an observation
            return out
        return out.unflatten(0, act.shape[:-1])

    def decode(self, obs: Tensor, latent: Tensor) -> Tensor:
        obs_rows, latent_rows = _as_rows(obs, latent)
        noise = (latent_rows,) if latent.shape[-1] else ()
        return self._module.decode(obs_rows, *noise).unflatten(0, latent.shape[:-1])  # type: ignore[operator]


def _as_rows(obs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    lead = x.dim() - 1
    obs = obs.expand(*x.shape[:-1], *obs.shape[lead:])
    # reshape, as flatten loses the rows of a latent of width zero
    return obs.flatten(0, lead - 1), x.reshape(x.shape[:-1].numel(), x.shape[-1])


def broadcasting(module: nn.Module) -> Any:
    """The network as the losses call it: ours as it is, a user's own through :class:`_Rows`."""
    return module if isinstance(module, Critic | Perturbation | VAE) else _Rows(module)


def latent_dim(vae: nn.Module) -> int:
    """Width of the latent BCQ draws; 0 for a VAE that names none and so draws its own."""
    return int(getattr(vae, "latent_dim", 0))
