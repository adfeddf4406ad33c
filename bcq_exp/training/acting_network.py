"""A trained policy as one function of tensors, from the environment's observations to actions.

It contains the scaling of observations, the networks, and the mapping to the action space.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from bcq_exp.algorithm.discrete import DiscretePolicy
from bcq_exp.algorithm.networks import UnitActions, choose_compute_dtype
from bcq_exp.algorithm.policy import Policy
from bcq_exp.errors import UserError
from bcq_exp.training.evaluation import Agent


class Array(NamedTuple):
    """An input or output of the file.

    Args:
        shape: the shape of one observation or action, without the batch.
        meaning: a sentence that describes it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    meaning: str

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        return f"| `{self.name}` | {self.type} | (B, {shape}) | {self.meaning} |".replace(
            ", )", ",)"
        )


class ActingNetwork(nn.Module):
    """An agent as a function of tensors, which the file contains.

    ``forward(obs)``, or ``forward(obs, latent)`` of a policy that samples: the environment's
    observations (B, O) and standard normals (B, *normal_shape), both float32, to what the
    environment's ``step`` takes: float32 (B, A), or int64 (B,) and all actions' scores (B, n).

    Raises:
        UserError: if the policy cannot be computed from tensors alone.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        policy, scaling = copy.deepcopy(agent.policy).eval(), agent.normalizer
        kind = type(policy)
        if kind.action is Policy.action:
            raise UserError(
                f"policy: {kind.__name__} has no action(obs, normal), which is exported"
            )
        if policy.has_own_forward:
            raise UserError(
                f"policy: {kind.__name__} has a forward of its own, but only action(obs, normal) "
                "is exported; compute the actions there"
            )
        if policy.normal_shape is not None and 0 in policy.normal_shape:
            raise UserError(
                "vae: it draws its own random numbers, which a file cannot; give it a latent_dim "
                "and decode(obs, latent)"
            )
        choose_compute_dtype(policy, None)
        self.policy = policy
        self._is_scaled = scaling is not None
        if scaling is not None:  # in float64, as bcq_exp applies them
            self.register_buffer("shift", torch.as_tensor(-scaling.mean / scaling.std))
            self.register_buffer("scale", torch.as_tensor(1 / scaling.std))
        self._dtype = next(policy.parameters()).dtype
        if isinstance(space := policy.action_space, Box):
            self.register_buffer("low", torch.as_tensor(space.low, dtype=self._dtype))
            self.register_buffer("high", torch.as_tensor(space.high, dtype=self._dtype))
            if policy.action_scaling:
                self.unit = UnitActions(space.low, space.high).to(self._dtype)

    def forward(self, obs: Tensor, latent: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        # Omit operations without effect, because each takes microseconds.
        if self._is_scaled:
            obs = self.shift.addcmul(obs.double(), self.scale).float()
        obs = self._as(obs, self._dtype)
        if isinstance(self.policy, DiscretePolicy):
            scores = self.policy.scores(obs)
            return self.policy.chosen(scores), self._as(scores, torch.float32)
        normal = None if latent is None else self._as(latent, self._dtype)
        return self._as(self._to_env(self.policy.action(obs, normal)), torch.float32)

    @staticmethod
    def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x if x.dtype == dtype else x.to(dtype)

    def _to_env(self, act: Tensor) -> Tensor:
        """:meth:`~bcq_exp.algorithm.actions.ActionMap.to_env`, of tensors."""
        method = self.policy.action_bound_method
        if self.policy.action_scaling:
            act = self.unit.decode(act.tanh() if method == "tanh" else act)
        return act if method is None else act.clamp(self.low, self.high)

    @property
    def inputs(self) -> list[Array]:
        """The arguments of :meth:`forward`."""
        space = self.policy.observation_space
        assert space is not None and space.shape is not None
        scaled = "" if not self._is_scaled else "; they are scaled inside"
        obs = Array(
            "obs",
            "float32",
            space.shape,
            f"observations as the environment or data have them, flattened{scaled}",
        )
        if self.policy.normal_shape is None:
            return [obs]
        meaning = "standard normal numbers of which actions are sampled; clipped inside"
        return [obs, Array("latent", "float32", self.policy.normal_shape, meaning)]

    @property
    def outputs(self) -> list[Array]:
        """The outputs of :meth:`forward`."""
        space = self.policy.action_space
        if isinstance(space, Discrete):
            last = space.start + space.n - 1
            meaning = f"the number of the best action, {space.start} to {last}"
            scores = "what it is chosen by: values, or logits of a classifier; -inf if not allowed"
            return [
                Array("act", "int64", (), meaning),
                Array("scores", "float32", (int(space.n),), scores),
            ]
        assert isinstance(space, Box)
        bounds = f"from {space.low.tolist()} to {space.high.tolist()}"
        return [
            Array("act", "float32", space.shape, f"actions in the environment's unit, {bounds}")
        ]
