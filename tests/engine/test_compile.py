"""``trainer.compile``: torch's compiler computes the same steps, or one line says why it cannot."""

import shutil

import pytest
import torch

from bcq_exp.training import build
from tests.commands import TINY, bcq_exp, compose, engine_of

OPTIMIZERS = (
    "actor_optim.weight_decay=0.01",
    "optimizer@critic_optim=adamw",
    "critic_optim.weight_decay=0.1",
    "vae_optim.schedule=cosine",
)

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_steps_are_those_of_the_plain_engine():
    options = (*TINY, *OPTIMIZERS, "trainer.precision=fp64")
    data = build.build_dataset(compose(*options))
    plain, compiled = (
        engine_of([compose(*options, f"trainer.compile={on}")], data) for on in ("false", "true")
    )
    torch.testing.assert_close(compiled.advance(40), plain.advance(40), rtol=1e-8, atol=1e-10)
    expected, state = (engine.state_dict(0)["algorithm"] for engine in (plain, compiled))
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-10)


def test_without_a_compiler_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    ended = bcq_exp(*TINY, "name=r", "trainer.compile=true", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: trainer.compile=true: ")
    assert "no-such-compiler" in ended.stderr
