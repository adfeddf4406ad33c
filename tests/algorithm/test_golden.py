"""Each executor's steps agree with the authors' own code to 1e-9, every parameter, every step."""

from dataclasses import dataclass

import pytest
import torch

from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine
from bcq_exp.engine.executors import CUDAGraphExecutor, EagerExecutor
from bcq_exp.engine.stream import BLOCK_STEPS, Block, HostStream
from bcq_exp.engine.xla.compiler import XLACompiler
from tests.golden.replay import NAMES, Golden

EXECUTORS = {
    "eager": lambda: EagerExecutor,
    "xla": lambda: XLACompiler(is_required=True),
    "cuda_graph": lambda: CUDAGraphExecutor,
}
EXECUTED = [
    *("eager", "xla"),
    pytest.param(
        "cuda_graph",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    ),
]


@pytest.mark.parametrize("executor", EXECUTED)
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_after_every_step(name, executor):
    golden = Golden(name)
    bcq = golden.bcq().to("cuda" if executor == "cuda_graph" else "cpu")
    engine = _engine(golden, bcq, EXECUTORS[executor]())
    for step in range(golden.first_step, golden.first_step + golden.steps):
        values = dict(zip(engine.statistics, engine.advance(1)[0, 0], strict=True))
        for loss, expected in golden.losses(step).items():
            assert values[loss].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), loss
        engine.algorithm(0)  # brings the parameters up to date
        for module, expected in golden.networks(bcq, f"after{step}"):
            actual = module.state_dict()
            for key, value in expected.items():
                torch.testing.assert_close(actual[key].cpu(), value, rtol=1e-9, atol=1e-11)


@dataclass(frozen=True)
class _Recorded(HostStream):
    """The batches and the noise of the vectors in place of drawn ones."""

    block_of_vectors: Block

    def block(self, index):
        assert index == 0
        return self.block_of_vectors


def _engine(golden, bcq, executor):
    steps = [min(golden.first_step + i, golden.last_step) for i in range(BLOCK_STEPS)]
    batches = [golden.batch(step) for step in range(golden.first_step, golden.last_step + 1)]
    rows = torch.cat(
        [
            torch.cat([b.obs, b.obs_next, b.act, b.rew[:, None], b.terminated[:, None]], 1)
            for b in batches
        ]
    )
    size = golden.batch_size
    indices = torch.tensor([range(size * i, size * (i + 1)) for i in range(len(batches))])
    noise = [golden.noise(step) for step in steps]
    block = Block(
        indices=indices[[step - golden.first_step for step in steps]],
        noise=type(noise[0])(*(torch.stack(each) for each in zip(*noise, strict=True))),
    )
    stream = _Recorded(0, len(rows), size, bcq.noise_shapes(size), block)
    device = next(bcq.parameters()).device
    table = TransitionTable(rows.to(device), golden.obs_dim, golden.act_dim)
    return CohortEngine([bcq], table, [stream], executor)
