"""One step of an optimizer alone."""

from torch import Tensor

from bcq_exp.algorithm.optim import Optimizer


def minimize(optimizer: Optimizer, loss: Tensor) -> None:
    """Take one step down the gradient of ``loss`` (0-d)."""
    optimizer.apply(loss)
    optimizer.after_steps(1)
