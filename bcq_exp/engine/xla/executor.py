"""Gradient steps as XLA programs: torch's operators, compiled once, many steps per call.

A step runs once while JAX traces. Every operator that torch dispatches (forward, backward,
optimizers) is also applied to JAX's values (:mod:`bcq_exp.engine.xla.trace`), so that the program
contains exactly these operators.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import Hyperparameters
from bcq_exp.algorithm.networks import choose_compute_dtype
from bcq_exp.algorithm.policy import Policy
from bcq_exp.engine.buffers import StepBuffers, TransitionRows
from bcq_exp.engine.executors import EagerExecutor, Executor, take_step, unchanged
from bcq_exp.engine.xla import UntraceableError
from bcq_exp.engine.xla.acting import Acting, places_of
from bcq_exp.engine.xla.operators import jax_dtype
from bcq_exp.engine.xla.trace import Trace, to_jax, to_torch
from bcq_exp.errors import first_line
from bcq_exp.files import cache_folder

# XLA's tiled kernels convert to bfloat16 at half the speed; it reads this when it starts
SLOW_KERNELS_OFF = "--xla_backend_extra_options=xla_cpu_disable_tiled_emitter"

NUM_THREADS = "PJRT_NPROC"  # the variable that XLA reads when it starts

# allowed difference of a tensor's change, by norm: Adam's first steps follow signs only
ROUNDING = 0.02
ROUNDING_BF16 = 0.25
ERRORS = 4  # allowed ratio of the errors of compiled and eager steps, where more than that differs


class XLAExecutor:
    """Steps one run and acts by its policy; between :meth:`sync` calls only JAX has its state.

    Args:
        program: the program of this run, or of another run of its cohort.
    """

    def __init__(self, learner: OfflineAlgorithm, buffers: StepBuffers, program: Program) -> None:
        self._learner, self._buffers, self._program = learner, buffers, program
        self._tensors = _stored(learner.state_tensors())
        with jax.enable_x64(True):
            self._values = [to_jax(tensor) for tensor in self._tensors]
            self._hyperparameters = [to_jax(x) for x in _as_tensors(learner)]
        self._is_synced = True
        self._acting: Acting | None = None
        self._can_compile_acting = True

    def advance(self, count: int) -> None:
        rates = [o.next_lrs(self._buffers.num_steps) for o in self._learner.all_optimizers()]
        with jax.enable_x64(True):
            self._values, metrics = self._program.steps(
                self._values,
                [x.numpy() for x in self._buffers.inputs],
                np.array(rates, np.float64).T,
                self._hyperparameters,
                self._learner.num_steps % len(self._learner.steps),
                count,
            )
        self._buffers.metrics.copy_(to_torch(metrics))
        self._learner.after_steps(count)
        self._is_synced = False

    def act(self, policy: Policy, obs: np.ndarray, generator: torch.Generator) -> np.ndarray:
        if self._can_compile_acting:
            try:
                if self._acting is None:
                    self._acting = Acting(policy, self._tensors, self._values, obs)
                return self._acting(self._values, obs, generator)
            except UntraceableError:
                self._can_compile_acting = False
        self.sync()
        act = policy(Batch(obs=obs), generator=generator).act
        with jax.enable_x64(True):
            for i in places_of(policy.buffers(), self._tensors):  # it may have changed them
                self._values[i] = to_jax(self._tensors[i])
        return act

    def sync(self) -> None:
        if self._is_synced:
            return
        with torch.no_grad():
            for tensor, value in zip(self._tensors, self._values, strict=True):
                tensor.copy_(to_torch(value))
        self._is_synced = True


class Program:
    """Steps of a run, compiled for its shapes and optimizers.

    ``steps(state, inputs, rates, hyperparameters, turn, count)`` returns the state after ``count``
    steps, and their metrics (W, S).

    Args:
        num_threads: as of :class:`~bcq_exp.engine.xla.compiler.XLACompiler`.
    """

    def __init__(
        self,
        learner: OfflineAlgorithm,
        table: TransitionRows,
        buffers: StepBuffers,
        num_threads: int | None = None,
    ) -> None:
        _start_jax(num_threads)
        self._learner, self._table, self._buffers = learner, table, buffers
        self._tensors = _stored(learner.state_tensors())
        self._rates = torch.zeros(
            buffers.num_steps, len(learner.all_optimizers()), dtype=torch.float64
        )
        self._hyperparameters = _as_tensors(learner)
        self.has_constants = False
        self.steps = jax.jit(self._steps, donate_argnums=0)

    def _steps(
        self,
        state: list[Array],
        inputs: list[Array],
        rates: Array,
        hyperparameters: list[Array],
        turn: Array,
        count: Array,
    ) -> tuple[list[Array], Array]:
        cycle = len(self._learner.steps)
        given = [*inputs, rates, *hyperparameters]
        turns = [partial(self._step, i, given=given) for i in range(cycle)]

        def step(i: Array, changing: list[Array]) -> list[Array]:
            if cycle == 1:
                return turns[0](changing)
            return jax.lax.switch((turn + i) % cycle, turns, changing)

        # without present values, which would make cached programs differ between runs
        outputs = [jnp.zeros(x.shape, jax_dtype(x.dtype)) for x in self._buffers.outputs]
        *state, metrics, _ = jax.lax.fori_loop(0, count, step, [*state, *outputs])
        return state, metrics

    def _step(self, turn: int, changing: list[Array], *, given: list[Array]) -> list[Array]:
        learner, buffers = self._learner, self._buffers
        tensors = [*self._tensors, *buffers.outputs]
        constant = [*buffers.inputs, self._rates, *self._hyperparameters]
        own = learner.hyperparameters
        read = dict(zip(numbers_of(own), self._hyperparameters, strict=True))
        with unchanged(learner, buffers), ExitStack() as stack:
            stack.callback(setattr, learner, "hyperparameters", own)
            learner.hyperparameters = own.with_tensors(read)
            trace = stack.enter_context(Trace([*tensors, *constant], [*changing, *given]))
            rates = self._rates.index_select(0, buffers.row)[0].unbind()
            for optimizer, rate in zip(learner.all_optimizers(), rates, strict=True):
                stack.enter_context(optimizer.lr_from(rate))
            take_step(learner, self._table, buffers, turn)
            changed = [trace.value(tensor) for tensor in tensors]
        self.has_constants |= trace.num_constants > 0  # in any turn
        return changed


def _start_jax(num_threads: int | None) -> None:
    """Let JAX use the CPU, with so many threads, and the user's cache for compiled programs."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {SLOW_KERNELS_OFF}"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if num_threads is not None and NUM_THREADS not in os.environ:
        os.environ[NUM_THREADS] = str(num_threads)
        try:
            jax.devices()
        finally:
            del os.environ[NUM_THREADS]  # not for other processes


def _stored(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of tensors as programs store them: matrices transposed, as layers multiply by these."""
    return [x.detach().t() if x.ndim == 2 else x.detach() for x in tensors]


def _as_tensors(learner: OfflineAlgorithm) -> list[Tensor]:
    """Return a run's :func:`numbers_of` hyperparameters as tensors (), inputs of the program."""
    like, hyper = next(learner.parameters()), learner.hyperparameters
    return [like.new_tensor(float(getattr(hyper, name))) for name in numbers_of(hyper)]


def numbers_of(hyper: Hyperparameters) -> list[str]:
    """The names of stackable numbers; other hyperparameters are constants of the program."""
    return [n for n in hyper.stackable() if isinstance(getattr(hyper, n), int | float)]


def verify(
    learner: OfflineAlgorithm, table: TransitionRows, buffers: StepBuffers, program: Program
) -> None:
    """Compare two compiled steps with eager ones, and undo them.

    The second step reveals values that are no constants, such as a counter in Python. A saturated
    tanh, or what else cancels, amplifies rounding: a tensor that differs is then compared with the
    same steps in float64, from which the compiled ones may be as far as the eager ones.

    Raises:
        UntraceableError: if they differ by more than rounding, or XLA cannot run the program.
    """
    tensors = learner.state_tensors()
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        compiled = _after_two_steps(learner, buffers, XLAExecutor(learner, buffers, program))
    except jax.errors.JaxRuntimeError as error:
        raise UntraceableError(f"XLA: {first_line(error)}") from error
    eager = _after_two_steps(learner, buffers, EagerExecutor(learner, table, buffers))
    is_bf16 = any(getattr(m, "compute_dtype", None) == torch.bfloat16 for m in learner.modules())
    changes = enumerate(zip(compiled, eager, before, strict=True))
    differing = [i for i, change in changes if not _agree(*change, is_bf16=is_bf16)]
    if differing:
        with suppress(Exception):  # a user's network may be of float32 only
            exact = _after_two_exact_steps(learner, table, buffers)
            differing = [i for i in differing if not _as_near(compiled[i], eager[i], exact[i])]
    if differing:
        raise UntraceableError(
            f"{len(differing)} of {len(tensors)} tensors differ between the compiled and the eager "
            "step"
        )


def _after_two_steps(
    learner: OfflineAlgorithm, buffers: StepBuffers, executor: Executor
) -> list[Tensor]:
    """What two steps on the same inputs make of the tensors that change; the steps are undone."""
    with unchanged(learner, buffers):
        for _ in range(2):
            buffers.row.zero_()
            executor.advance(1)
        executor.sync()
        after = [tensor.detach().clone() for tensor in learner.state_tensors()]
        learner.after_steps(-2)
    return after


def _after_two_exact_steps(
    learner: OfflineAlgorithm, table: TransitionRows, buffers: StepBuffers
) -> list[Tensor]:
    """As :func:`_after_two_steps`, computed in float64."""
    learner, buffers = deepcopy(learner), buffers.double()
    for tensor in learner.state_tensors():
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    for network in learner.networks:
        choose_compute_dtype(network, None)
    return _after_two_steps(learner, buffers, EagerExecutor(learner, table, buffers))


def _as_near(compiled: Tensor, eager: Tensor, exact: Tensor) -> bool:
    """Whether the compiled steps' error is of the size of the eager steps'."""
    error, allowed = ((x.double() - exact).norm() for x in (compiled, eager))
    return bool(error <= ERRORS * allowed)


def _agree(compiled: Tensor, expected: Tensor, before: Tensor, *, is_bf16: bool) -> bool:
    """Whether two changes of a tensor are equal up to rounding."""
    if torch.equal(compiled, expected):
        return True
    if not expected.is_floating_point():
        return False
    off, change = (compiled - expected).double(), (expected - before).double()
    if not change.isfinite().all():  # both diverged in the same way
        return torch.equal(compiled.isfinite(), expected.isfinite())
    # one gradient of a tensor, near 0, may have the other sign, and Adam's step with it
    if is_bf16:
        return bool(off.norm() <= (ROUNDING_BF16 + 2 / off.numel() ** 0.5) * change.norm())
    if off.numel() > 1:
        off = off.flatten()
        off[off.abs().argmax()] = 0
    return bool(off.norm() <= ROUNDING * change.norm())
