"""Decide whether a run's steps become an XLA program, and compile it when it is needed."""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.stacking import constants
from bcq_exp.engine.buffers import StepBuffers, TransitionRows
from bcq_exp.engine.executors import EagerExecutor, Executor, Learner
from bcq_exp.engine.xla import UntraceableError
from bcq_exp.errors import UserError

if TYPE_CHECKING:
    from bcq_exp.engine.xla.executor import Program

log = logging.getLogger(__name__)


class XLACompiler:
    """Makes the executors of a cohort's runs, which share their programs.

    JAX is imported for the first executor, so that shorter runs do not wait for it.

    Args:
        is_required: whether a step that cannot be compiled is an error; otherwise it runs eagerly,
            and one log line has the reason.
        num_threads: XLA's threads, by default one per core. All programs of the process share
            those of the first one.
    """

    def __init__(self, is_required: bool, num_threads: int | None = None) -> None:
        self._is_required, self._num_threads = is_required, num_threads
        self._programs: dict[Any, Program] = {}
        self._has_failed = False
        self._lock = Lock()

    def __call__(self, learner: Learner, table: TransitionRows, buffers: StepBuffers) -> Executor:
        """Make an executor; the first call with these optimizers compiles.

        Raises:
            UserError: if the step cannot be compiled and ``is_required``.
        """
        eager = EagerExecutor(learner, table, buffers)
        if self._has_failed:
            return eager
        try:
            return self._compiled(_compilable(learner), table, buffers)
        except UntraceableError as error:
            if self._is_required:
                raise UserError(f"trainer.engine=xla: {error}; use auto or eager") from error
            log.warning(
                "steps run eagerly, which is slower: %s; trainer.engine=eager does so without "
                "this warning",
                error,
            )
            self._has_failed = True
            return eager

    def _compiled(
        self, run: OfflineAlgorithm, table: TransitionRows, buffers: StepBuffers
    ) -> Executor:
        from bcq_exp.engine.xla.executor import Program, XLAExecutor, numbers_of, verify

        hyper = run.hyperparameters
        constant = vars(hyper).keys() - {*numbers_of(hyper)}
        key = (
            tuple(repr(getattr(hyper, name)) for name in sorted(constant)),
            tuple(optimizer.factory.without_lr() for optimizer in run.all_optimizers()),
            tuple(tuple(constants(network).items()) for network in run.networks),
        )
        with self._lock:  # others of the same kind wait for the program
            program = self._programs.get(key)
            if program is None:
                program = Program(run, table, buffers, self._num_threads)
                verify(run, table, buffers, program)
                if not program.has_constants:  # perhaps this run's own
                    self._programs[key] = program
        torch.set_num_threads(1)  # XLA has its own threads; torch's would spin on their cores
        return XLAExecutor(run, buffers, program)


def _compilable(learner: Learner) -> OfflineAlgorithm:
    """Return the learner if its steps always run the same kernels.

    Raises:
        UntraceableError: if they may differ.
    """
    if not isinstance(learner, OfflineAlgorithm):
        raise UntraceableError("stacked runs cannot be compiled")
    if not learner.is_pure:
        raise UntraceableError("a network does not declare pure = True")
    for name, optimizer in learner.optimizers.items():
        if not optimizer.can_be_compiled:
            raise UntraceableError(f"the state of the optimizer of {name} is not only tensors")
    return learner
