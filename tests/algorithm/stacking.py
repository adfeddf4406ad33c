"""Whether K stacked runs of any algorithm take the steps that they take alone."""

import torch

from bcq_exp.algorithm.batch import Batch
from bcq_exp.engine.stacked import StackedRuns
from tests.algorithm.loops import assert_same_parameters
from tests.algorithm.small import make_batch


def assert_a_stack_is_its_runs(make, num_runs, steps=10):
    """``make(k)`` makes run k in float64; each has batches and noise of its own."""
    in_stack, alone = ([make(k) for k in range(num_runs)] for _ in range(2))
    stack = StackedRuns(in_stack)
    for step in range(steps):
        batches = [make_batch(seed=100 * step + k) for k in range(num_runs)]
        noises = [
            run.draw_noise(6, torch.Generator().manual_seed(1000 * step + k))
            for k, run in enumerate(alone)
        ]
        names = vars(batches[0])
        batch = Batch(**{n: torch.stack([getattr(b, n) for b in batches]) for n in names})
        noise = type(noises[0])._make(map(torch.stack, zip(*noises, strict=True)))
        stacked = stack.tensor_step(batch, noise, step % len(stack.steps))
        stack.after_steps(1)
        each = [r.gradient_step(b, n) for r, b, n in zip(alone, batches, noises, strict=True)]
        assert stacked.keys() == each[0].keys()
        for name, values in stacked.items():
            expected = torch.stack([metrics[name] for metrics in each])
            torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    assert_same_parameters(in_stack, alone, rtol=1e-10)
