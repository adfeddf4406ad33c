"""Where the warnings of a report begin."""

from contextlib import ExitStack

import numpy as np
import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.analysis.findings import findings
from bcq_exp.training.folders import hold
from tests.analysis.made_up import make_run


@pytest.mark.parametrize(
    ("then", "at_last", "kinds"),
    [(2.9, 2.9, []), (1, 9, []), (9, 1, []), (3.1, 3.1, ["diverging Q"])],
)
def test_q_diverges_where_it_triples_twice_in_the_second_half(then, at_last, kinds, tmp_path):
    q = np.repeat([1, 1, then, then * at_last], 5)
    run = make_run(tmp_path / "a", [1.0], training={"q1_mean": q, "q2_mean": 0.0})
    assert [found.kind for found in findings(load_runs(run))] == kinds


@pytest.mark.parametrize(("step", "kinds"), [(920, []), (880, ["lags behind"])])
def test_a_run_lags_behind_with_less_than_half_of_the_median_progress(step, kinds, tmp_path):
    with ExitStack() as running:
        for seed, (reached, of) in enumerate([(900, 1), (900, 1), (step, 2)]):  # thousand
            folder = tmp_path / "s" / str(seed)
            make_run(folder, [1.0] * of, seed=seed, status="running", step=reached)
            running.enter_context(hold(folder))
        assert [found.kind for found in findings(load_runs(tmp_path / "s"))] == kinds
