"""Claims: decided by pairs, by numbers that are known by hand."""

import itertools
import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from bcq_exp.data import env_scores, env_specs
from bcq_exp.paper import page
from bcq_exp.paper.claims import AGENT, BEHAVIOUR, TRUTH, Claim, Comparison, decide, holm, sign_flip
from bcq_exp.paper.page import _row, rows, table
from bcq_exp.paper.run_tables import Results
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_run
from tests.paper.test_experiments import plan

SETTINGS = ("imitation", "imperfect")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Makes results of 2 settings, 3 environments, 3 seeds, where algorithms score as told."""
    monkeypatch.chdir(tmp_path)

    def make(
        score,
        *,
        value=lambda algo: 50.0,
        behaviour=20.0,
        left_out=(),
        failed=(),
        dead=(),
        empty=False,
        shared=False,
        settings=SETTINGS,
    ):
        shutil.rmtree("multirun", ignore_errors=True)
        of = (f"settings=[{','.join(settings)}]", "algorithms=[bcq,bc,ddpg]")
        made = plan("budget=small", *of, f"own_agents={not shared}")
        for folder in made.agents.folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            for step in (50_000, 80_000, 100_000):  # the last two are of the last quarter
                row = {"step": step, "normalized_score": step / 1000}
                RunRecord(folder).append("eval", row)
        names = {(d.setting, d.env, d.seed): d.id for d in made.datasets}
        for sweep in made.sweeps:
            low, high = env_scores.reference_scores(env_specs.find_spec("x", sweep.env))
            for (algo, seed), folder in sweep.folders.items():
                if (algo, seed) in left_out:
                    continue
                has_failed = (algo, seed) in failed
                num_evaluations = 0 if has_failed and empty else 8
                returns = [score(algo, sweep.setting, seed, i) for i in range(num_evaluations)]
                make_run(
                    folder,
                    returns,
                    num_rows=1,
                    seed=seed,
                    scored=True,
                    evaluated={
                        "discounted_return_mean": 50.0,
                        "value_mean": None if algo == "bc" else value(algo),
                    },
                    dataset=names[sweep.setting, sweep.env, 0 if shared else seed],
                    status="failed" if has_failed else "completed",
                    behaviour_return=low + behaviour / 100 * (high - low),
                    trouble=["dead VAE"] if (algo, seed) in dead else [],
                )
        return Results(made)

    return make


def verdict(results, *args, **kwargs):
    (found,) = decide(results, [Claim("it is so", (Comparison(*args, **kwargs),))])
    return found


def test_a_sign_flip_test_counts_the_flips():
    rng = np.random.default_rng(3)
    for size in (2, 5, 9):
        x = rng.normal(0.4, 1.0, size)
        flips = np.array(list(itertools.product((-1, 1), repeat=size)))
        means = (flips * x).mean(1)
        greater, less = (means >= x.mean() - 1e-12).mean(), (means <= x.mean() + 1e-12).mean()
        assert sign_flip(x) == pytest.approx((greater, less))
    assert sign_flip(np.array([3.0])) == (1.0, 1.0)
    assert sign_flip(np.zeros(4)) == (1.0, 1.0)


def test_runs_with_a_dead_vae_are_counted_in_claims_and_table(results):
    made = results(lambda algo, *_: 50.0, dead=[("bcq", 0), ("bcq", 2)], settings=SETTINGS[:1])
    (decision,) = verdict(made, "bcq", "bc", SETTINGS[:1]).decisions
    assert decision.num_dead == 6  # two seeds in three environments
    assert ", 9 pairs (6 with a dead VAE), p" in str(decision)
    assert "dead VAE" not in str(verdict(made, "bc", "ddpg", SETTINGS[:1]).decisions[0])
    _, body = rows(made, "md")
    assert all("(2 dead VAEs)" in row[2] and "dead" not in "".join(row[3:]) for row in body)


def test_held_not_held_and_not_decided(results):
    scores = {"bcq": 60.0, "bc": 40.0, "ddpg": 60.0}
    wobble = np.random.default_rng(0).permutation([-3.0, -1.0, 0.0, 1.0, 3.0, -2.0, 2.0, 0.5, -0.5])

    def score(algo, setting, seed, i):
        return scores[algo] + (wobble[seed] if algo == "ddpg" else 0.1 * seed)

    made = results(score)
    held = verdict(made, "bcq", "bc", SETTINGS)
    assert held.verdict == "held"
    first, _ = held.decisions
    assert (first.num_pairs, first.p) == (9, 1 / 512)
    assert first.difference.value == pytest.approx(20)
    assert "imitation: BCQ – BC +20.0 [+20.0, +20.0], 9 pairs, p 0.002: held" in str(first)
    assert str(first).startswith("imitation: BCQ – BC")
    assert verdict(made, "bc", "bcq", SETTINGS).verdict == "not held"
    assert verdict(made, "bcq", "ddpg", SETTINGS).verdict == "not decided"
    assert verdict(made, "bcq", BEHAVIOUR, SETTINGS).decisions[0].difference.value == (
        pytest.approx(40.1)
    )
    assert verdict(made, BEHAVIOUR, "bc", SETTINGS).verdict == "not held"


def test_a_margin_makes_nearly_as_good_as_good_enough(results):
    made = results(lambda algo, setting, seed, i: {"bcq": 17.0}.get(algo, 14.0))
    assert verdict(made, "bcq", BEHAVIOUR, SETTINGS).verdict == "not held"
    assert verdict(made, "bcq", BEHAVIOUR, SETTINGS, margin=5.0).verdict == "held"
    assert verdict(made, "bc", BEHAVIOUR, SETTINGS, margin=5.0).verdict == "not held"


def test_a_claim_wants_each_of_its_parts_and_the_last_quarter_counts(results):
    def score(algo, setting, seed, i):
        late = i >= 6
        better = setting == "imitation" or not late
        return 100.0 * i * (algo == "bc" and not late) + (
            30.0 if algo == "bcq" and better else 20.0
        )

    made = results(score)
    found = verdict(made, "bcq", "bc", SETTINGS)
    assert [d.verdict for d in found.decisions] == ["held", "not decided"]
    assert found.verdict == "not decided"
    early = verdict(made, "bcq", BEHAVIOUR, ("imperfect",), measure="early_score")
    assert early.decisions[0].difference.value == pytest.approx(10)


def test_value_estimates_are_held_against_the_discounted_return(results):
    made = results(
        lambda algo, setting, seed, i: 1.0,
        value=lambda algo: {"bcq": 59.0, "ddpg": 1049.0}[algo],
    )
    found = verdict(made, "bcq", "ddpg", SETTINGS, measure="closeness")
    assert found.verdict == "held"
    assert found.decisions[0].difference.value == pytest.approx(2)  # log10 of 10 and of 1000
    assert verdict(made, "ddpg", TRUTH, SETTINGS, measure="overestimation").verdict == "held"


def test_missing_runs_leave_their_pairs_out_and_other_algorithms_their_claims(results):
    made = results(lambda algo, *_: 1.0, left_out={("bc", 1), ("bcq", 0)})
    assert verdict(made, "bcq", "bc", SETTINGS).decisions[0].num_pairs == 3
    assert decide(made, [Claim("of DQN", (Comparison("bcq", "dqn"),))]) == []
    everywhere = verdict(made, "bcq", "bc")
    assert {d.setting for d in everywhere.decisions} == set(SETTINGS)


def test_a_failed_run_counts_as_the_worst_of_its_task_in_whatever_is_measured(results):
    scores = {"ddpg": 10.0, "bcq": 40.0, "bc": 30.0}
    made = results(lambda algo, *_: scores[algo], failed={("bcq", 2)})
    first = verdict(made, "bcq", "bc", SETTINGS).decisions[0]
    assert (first.num_pairs, first.num_planned, first.num_failed) == (9, 9, 3)
    assert first.difference.value == pytest.approx((6 * 10 + 3 * (10 - 30)) / 9)
    assert "9 pairs (3 with a failed run)" in str(first)
    _, body = rows(made, "md")  # of evaluations before it failed
    assert all("(1 failed)" in row[2] and "failed" not in "".join(row[3:]) for row in body)
    # the behaviour scores 20, all runs more: failing is no better than it
    made_well = results(lambda algo, *_: scores[algo] + 50, failed={("bcq", 2)})
    first = verdict(made_well, "bcq", BEHAVIOUR, SETTINGS).decisions[0]
    assert first.difference.value == pytest.approx(6 * 70 / 9)


def test_a_run_that_failed_before_its_first_evaluation_is_the_worst_too(results):
    made = results(lambda algo, *_: {"ddpg": 5.0}.get(algo, 30.0), failed={("bcq", 1)}, empty=True)
    first = verdict(made, "bcq", "bc", SETTINGS).decisions[0]
    assert (first.num_pairs, first.num_failed) == (9, 3)
    assert first.difference.value == pytest.approx(3 * (5 - 30) / 9)
    row = next(line for line in table(made, "md").splitlines() if "imitation, Hopper" in line)
    assert "30.0 ± 0.0 (2 of 3)" in row


def test_a_bold_cell_with_a_mark_has_no_asterisks_on_the_page():
    assert _row(["**30.0 ± 0.0** (2 of 3)", "1.0"], "td") == (
        "<tr><td><b>30.0 ± 0.0 (2 of 3)</b></td><td>1.0</td></tr>"
    )


def test_pairs_on_one_data_set_are_not_independent(results):
    """Nine pairs agree, but of three data sets: the least p is 1/8."""
    made = results(lambda algo, s, seed, i: {"bcq": 30.0}.get(algo, 20.0) + seed, shared=True)
    first = verdict(made, "bcq", "bc", SETTINGS).decisions[0]
    assert (first.num_pairs, first.num_datasets, first.p) == (9, 3, 1 / 8)
    assert first.verdict == "not decided"
    assert "9 pairs on 3 data sets" in str(first)


def test_sharing_data_gives_no_effect_where_there_is_none():
    """Three seeds on each of nine data sets, whose effects are chance: 2.5% and not 22%."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        sums = 3 * rng.normal(size=9) + rng.normal(size=(3, 9)).sum(0)
        held += sign_flip(sums)[0] <= 0.025
    assert held <= 0.05 * 200


def test_not_held_is_corrected_for_the_number_of_comparisons():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, float("nan")]) == pytest.approx([0.02, float("nan")], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_one_of_many_comparisons_that_chance_turned_refutes_no_claim(results):
    """By itself one setting would refute: p is 11/512 there, and 22/512 of two comparisons."""
    wobble = dict(enumerate([-4.0, -2.0, 2.0]))

    def score(algo, setting, seed, i):
        lower = algo == "bcq" and setting == "imperfect"
        return 30.0 + (wobble[seed] if algo == "bcq" else 0.0) - lower

    made = results(score)
    alone = verdict(made, "bcq", "bc", ("imperfect",))
    both = verdict(made, "bcq", "bc", SETTINGS)
    assert [(d.p_opposite, d.verdict) for d in alone.decisions] == [(11 / 512, "not held")]
    assert [d.verdict for d in both.decisions] == ["not decided"] * 2
    assert both.decisions[1].p_opposite == 22 / 512
    assert (alone.verdict, both.verdict) == ("not held", "not decided")


def test_an_agent_is_the_policy_that_recorded(results):
    made = results(lambda algo, *_: 70.0)
    (imitation,) = verdict(made, AGENT, "ddpg", ("imitation",)).decisions
    assert imitation.difference.value == pytest.approx(20 - 70)  # as recorded, not its last quarter
    (imperfect,) = verdict(made, AGENT, "ddpg", ("imperfect",)).decisions
    assert imperfect.difference.value == pytest.approx(100 - 70)  # its final policy, without noise


def test_an_agent_whose_buffer_is_the_data_counts_by_its_last_evaluations(results):
    made = results(lambda algo, *_: 70.0, settings=("final_buffer",))
    (first,) = verdict(made, AGENT, "ddpg", ("final_buffer",)).decisions
    assert first.difference.value == pytest.approx(90 - 70)


def test_the_files_of_the_results(results, tmp_path, opened):
    made = results(lambda algo, setting, seed, i: {"bcq": 60.0}.get(algo, 30.0) + seed)
    decided = decide(made)
    page.write(made, decided, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"{name}.{form}" for name in ("curves", "values") for form in ("svg", "pdf")}
    assert files == {
        *figures, "index.html", "table.md", "table.tex", "claims.md", "runs.csv",
    }  # fmt: skip
    for name in ("curves", "values"):
        text = (tmp_path / "out" / f"{name}.svg").read_text()
        titles = [
            t.text for t in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
        ]
        assert "imperfect, Walker2d-v5" in titles
    first = (tmp_path / "out" / "curves.svg").read_bytes()
    page.write(made, decided, tmp_path / "out")
    assert (tmp_path / "out" / "curves.svg").read_bytes() == first
    row = next(line for line in table(made, "md").splitlines() if "imitation, Hopper" in line)
    assert row.split(" | ")[2:4] == ["61.0 ± 1.0", "31.0 ± 1.0"]  # three seeds are too few for bold
    assert r"\bottomrule" in table(made, "tex")
    assert len((tmp_path / "out" / "runs.csv").read_text().splitlines()) == 1 + 2 * 3 * 3 * 3
    shown = opened(tmp_path / "out" / "index.html")
    assert shown.locator(".verdict").count() == len(decided)
    assert shown.locator(".lead svg").count() == 2
    colour = shown.evaluate("DATA.algorithms.BCQ")  # of the curves below
    assert f"stroke: {colour}" in first.decode()
    lines = shown.evaluate("behaviours([...DATA.runs.keys()], 'behaviour_return')")
    assert sorted(task for task, _ in lines) == sorted(
        f"{s}, {e}" for s in SETTINGS for e in made.envs
    )
    assert json.loads(json.dumps(shown.evaluate("DATA.keys"))) == ["algo"]
