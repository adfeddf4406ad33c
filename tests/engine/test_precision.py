"""What ``trainer.precision`` chooses, and how far the faster paths stray from the plain one."""

import pytest
import torch

from bcq_exp.data.task import load_task
from bcq_exp.engine.precision import (
    Precision,
    has_fast_bf16,
    resolve_precision,
)
from bcq_exp.errors import UserError
from tests.commands import compose, engine_of, placement_of

CPU = torch.device("cpu")
WIDE = ("networks=paper", "dataset.num_steps=2000")


def test_a_precision_chooses_the_types_of_numbers():
    assert resolve_precision("fp64", CPU, are_wide=True) == Precision(torch.float64)
    bf16 = resolve_precision("bf16", CPU, are_wide=False)
    assert (bf16.dtype, bf16.compute_dtype) == (torch.float32, torch.bfloat16)
    assert resolve_precision("fp32", CPU, are_wide=False) == Precision()


@pytest.mark.parametrize("is_fast", [True, False])
def test_the_log_says_that_bf16_is_slow_where_it_is_emulated(monkeypatch, is_fast):
    monkeypatch.setattr("bcq_exp.engine.placement.has_fast_bf16", lambda device: is_fast)
    bf16, fp32 = (
        str(placement_of(compose(f"trainer.precision={name}"))) for name in ("bf16", "fp32")
    )
    assert ("bfloat16 is emulated" in bf16) is not is_fast
    assert "bfloat16" not in fp32


def test_the_log_names_the_precision_that_auto_chooses(monkeypatch):
    monkeypatch.setattr("bcq_exp.engine.placement.has_fast_bf16", lambda device: True)
    names = ("fp32", "bf16", "fp64", "auto")
    found = [str(placement_of(compose(f"trainer.precision={name}"))) for name in names]
    assert [line.split(" in ")[1][:4] for line in found] == ["fp32", "bf16", "fp64", "fp32"]


def test_auto_takes_bf16_only_where_it_pays(monkeypatch):
    monkeypatch.setattr("bcq_exp.engine.precision.has_fast_bf16", lambda device: True)
    assert resolve_precision("auto", CPU, are_wide=True).compute_dtype == torch.bfloat16
    assert resolve_precision("auto", CPU, are_wide=False).compute_dtype is None
    monkeypatch.setattr("bcq_exp.engine.precision.has_fast_bf16", lambda device: False)
    assert resolve_precision("auto", CPU, are_wide=True).compute_dtype is None


def test_tf32_needs_a_cuda_device():
    with pytest.raises(UserError, match="tf32: needs a CUDA device"):
        resolve_precision("tf32", CPU, are_wide=True)


def test_the_process_wide_setting_is_put_back():
    before = torch.get_float32_matmul_precision()
    with Precision(float32_products="medium").in_force():
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before


def test_products_the_fp32_precision_allows_are_true_float32():
    a, b = torch.randn(128, 700), torch.randn(700, 128)
    exact = a.double() @ b.double()
    with resolve_precision("fp32", CPU, are_wide=True).in_force():
        error = (a @ b - exact).abs().max() / exact.abs().max()
    assert error < 2e-6


def engine(dataset, *overrides, plain=False):
    """An engine and the steps it takes under its precision, or plainly."""
    cfg = compose(*WIDE, *overrides)
    engine = engine_of([cfg], dataset, **({"engine": "eager"} if plain else {}))
    precision = Precision() if plain else placement_of(cfg).precision

    def advance(num_steps):
        with precision.in_force():
            return engine.advance(num_steps)

    return engine, advance


@pytest.fixture(scope="module")
def dataset():
    return load_task(compose(*WIDE).dataset)


@pytest.mark.slow
def test_fp32_stays_within_1e_5_of_the_plain_path_over_100_steps(dataset):
    # Not with Adam, which makes a whole step of the rounding of a gradient that vanishes, nor so
    # fast that a ReLU which rounding switched is seen: plain float32 is then 4e-5 from float64.
    sgd = [f"optimizer@{net}_optim=sgd" for net in ("actor", "critic", "vae")]
    sgd += ["vae_optim.lr=0.0001"]
    compiled = engine(dataset, *sgd, "trainer.engine=xla", "trainer.precision=fp32")
    (_, fast), (_, plain) = compiled, engine(dataset, *sgd, plain=True)
    losses, expected = fast(100)[0, :, :4], plain(100)[0, :, :4]
    assert ((losses - expected).abs().amax(0) < 1e-5 * expected.abs().amax(0)).all()


@pytest.mark.slow
@pytest.mark.skipif(not has_fast_bf16(CPU), reason="bfloat16 is emulated on this processor")
@pytest.mark.parametrize("executor", ["eager", "xla"])
def test_bf16_stays_within_5_percent_of_fp32_over_100_steps(dataset, executor):
    (bf16, fast), (_, plain) = (
        engine(dataset, "trainer.precision=bf16", f"trainer.engine={executor}"),
        engine(dataset, plain=True),
    )
    losses, expected = fast(100)[0, :, :4], plain(100)[0, :, :4]
    assert ((losses - expected).abs().mean(0) < 0.05 * expected.abs().mean(0)).all()
    assert not torch.equal(losses, expected)
    assert {p.dtype for p in bf16.algorithm(0).policy.parameters()} == {torch.float32}


def test_a_run_starts_from_the_same_weights_in_every_precision(dataset):
    single, double = (
        engine(dataset, f"trainer.precision={name}")[0].state_dict(0)["algorithm"]
        for name in ("fp32", "fp64")
    )
    names = [name for name, value in single.items() if isinstance(value, torch.Tensor)]
    assert any(name.startswith("critic2") for name in names)
    for name in names:
        torch.testing.assert_close(double[name].float(), single[name].float(), rtol=0, atol=0)
