"""A network of a user's own package: one class, one choice file, --config-dir."""

import pytest

from bcq_exp.training.record import RunRecord
from tests.commands import TINY
from tests.own.test_own_algorithm import run


def rows(folder):
    return RunRecord(folder).rows("train")


@pytest.mark.slow
def test_declared_pure_or_not_it_trains_the_same_and_a_sweep_of_it_is_stacked(tmp_path):
    done = run("-m", *TINY, "critic=layernorm", "seed=0,1", "name=s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 runs, 2 to train in 1 group of 2" in done.stdout
    undeclared = "critic._target_=tests.own.critics.UndeclaredCritic"
    for name, overrides in (("pure", ()), ("undeclared", (undeclared,))):
        done = run(*TINY, "critic=layernorm", *overrides, f"name={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "not recorded" not in done.stdout
        compiled = ("xla", "cuda_graph") if name == "pure" else ("eager",)
        summary = RunRecord(tmp_path / "multirun" / name).summary()
        assert summary["engine"].startswith(compiled)
    folders = [tmp_path / "multirun" / name for name in ("pure", "undeclared", "s/seed=0")]
    one, other, stacked = map(rows, folders)
    for row, values, of_stack in zip(one, other, stacked, strict=True):
        assert row == pytest.approx(values, rel=1e-4)
        assert row == pytest.approx(of_stack, rel=1e-2, abs=1e-3)


def test_a_network_that_is_pure_by_declaration_only_is_one_line(tmp_path):
    lying = "critic._target_=tests.own.critics.LyingCritic"
    done = run(*TINY, "critic=layernorm", lying, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (
        "error: critic: LyingCritic: inputs (2, 1, 3) and (2, 3, 1) give RuntimeError"
        in done.stderr
    )
    assert "pure = True requires that (B, 1, O) broadcasts against (B, n, A)" in done.stderr


def test_an_output_of_another_shape_is_one_line(tmp_path):
    flat = "critic._target_=tests.own.critics.FlatCritic"
    done = run(*TINY, "critic=layernorm", flat, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    line = "critic: FlatCritic: inputs (2, 3) and (2, 1) give the shape (2,), not (2, 1); "
    assert done.stderr == f"error: {line}the output of Critic is needed\n"


def test_a_size_of_another_kind_is_refused_by_the_constructor(tmp_path):
    done = run(*TINY, "critic=layernorm", "critic.hidden_sizes=32", "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "must be an iterable" in done.stderr
