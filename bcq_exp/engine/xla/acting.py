"""Acting as an XLA program, on the values that compiled steps change.

An agent that explores acts before every step: without a program the policy's tensors are copied
from JAX first, and torch's operators called from Python with cold caches (a fifth of the time).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import numpy as np
import torch
from jax import Array
from torch import Tensor

from bcq_exp.algorithm.mlp import in_eval_mode
from bcq_exp.algorithm.policy import Policy
from bcq_exp.engine.xla import UntraceableError
from bcq_exp.engine.xla.trace import Trace


class Acting:
    """Computes a policy's actions.

    Args:
        policy: of a learner whose networks always run the same kernels.
        tensors: those that steps change, as their program stores them.
        values: JAX's present values of these.
        obs: observations (B, O) to compile for.

    Raises:
        UntraceableError: if the policy cannot be compiled.
    """

    def __init__(
        self, policy: Policy, tensors: Sequence[Tensor], values: Sequence[Array], obs: np.ndarray
    ) -> None:
        if not policy.can_be_compiled:
            raise UntraceableError("the policy does not declare pure = True")
        self._places = places_of((*policy.parameters(), *policy.buffers()), tensors)
        self._policy, self._tensors = policy, [tensors[i] for i in self._places]
        self._like = policy.inputs(obs, torch.Generator())
        self._compiled = jax.jit(self._action)
        self(values, obs, torch.Generator())

    def __call__(
        self, values: Sequence[Array], obs: np.ndarray, generator: torch.Generator
    ) -> np.ndarray:
        """Return actions (B, A) in the policy's unit, for observations (B, O)."""
        inputs = [x.numpy() for x in self._policy.inputs(obs, generator)]
        with jax.enable_x64(True):
            return np.asarray(self._compiled([values[i] for i in self._places], inputs))

    def _action(self, values: list[Array], inputs: list[Array]) -> Array:
        tensors = [*self._tensors, *self._like]
        trace = Trace(tensors, [*values, *inputs])
        with torch.no_grad(), in_eval_mode(self._policy), trace:
            return trace.value(self._policy.action(*self._like))


def places_of(some: Iterable[Tensor], tensors: Sequence[Tensor]) -> list[int]:
    """The places, among ``tensors``, of those that share their memory with ``some``."""
    own = {tensor.data_ptr() for tensor in some}
    return [i for i, tensor in enumerate(tensors) if tensor.data_ptr() in own]
