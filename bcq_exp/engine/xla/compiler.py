"""What decides whether a run's steps become an XLA program, and makes it when it is due."""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Any

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.stacking import constants
from bcq_exp.engine.buffers import StepBuffers, TransitionRows
from bcq_exp.engine.executors import CUDAGraphExecutor, EagerExecutor, Executor, Learner
from bcq_exp.engine.xla import UntraceableError
from bcq_exp.errors import UserError

if TYPE_CHECKING:
    from bcq_exp.engine.xla.executor import Program

log = logging.getLogger(__name__)


class XLACompiler:
    """Makes the executors of a cohort's runs, which share their programs.

    JAX is imported for the first of them: a run that ends before does not wait for it.

    Args:
        is_required: whether a step that cannot be compiled is an error; else another executor
            takes it, and one log line says why.
    """

    def __init__(self, is_required: bool) -> None:
        self._is_required = is_required
        self._programs: dict[Any, Program] = {}
        self._failure = ""
        self._lock = Lock()

    def __call__(self, learner: Learner, table: TransitionRows, buffers: StepBuffers) -> Executor:
        """An executor, at the first call with these optimizers after compiling for it.

        Raises:
            UserError: if the step cannot be compiled and has to be.
        """
        otherwise = CUDAGraphExecutor if buffers.row.is_cuda else EagerExecutor
        if self._failure:
            return otherwise(learner, table, buffers)
        try:
            return self._compiled(_compilable(learner), table, buffers)
        except UntraceableError as error:
            if self._is_required:
                raise UserError(f"trainer.engine=xla: {error}; use auto or eager") from error
            log.warning(
                "steps are not compiled, which is slower: %s; trainer.engine=%s does so without "
                "this warning",
                error,
                "cuda_graph" if buffers.row.is_cuda else "eager",
            )
            self._failure = str(error)
            return otherwise(learner, table, buffers)

    def _compiled(
        self, run: OfflineAlgorithm, table: TransitionRows, buffers: StepBuffers
    ) -> Executor:
        from bcq_exp.engine.xla.executor import Program, XLAExecutor, verify

        key = (
            tuple(optimizer.factory.without_lr() for optimizer in run.all_optimizers()),
            tuple(tuple(constants(network).items()) for network in run.networks),
        )
        with self._lock:  # others of the same kind wait for the program
            program = self._programs.get(key)
            if program is None:
                program = Program(run, table, buffers)
                verify(run, table, buffers, program)
                if not program.has_constants:  # perhaps this run's own
                    self._programs[key] = program
        return XLAExecutor(run, buffers, program)


def _compilable(learner: Learner) -> OfflineAlgorithm:
    """The learner, if its steps are the same every time.

    Raises:
        UntraceableError: if they may not be.
    """
    if not isinstance(learner, OfflineAlgorithm):
        raise UntraceableError("stacked runs cannot be compiled")
    if not learner.is_pure:
        raise UntraceableError("a network does not declare pure = True")
    for name, optimizer in learner.optimizers.items():
        if not optimizer.can_be_compiled:
            raise UntraceableError(f"the state of the optimizer of {name} is not only tensors")
    return learner
