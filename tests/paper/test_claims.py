"""Claims: decided by pairs, by numbers that are known by hand."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from bcq_exp.data import environments
from bcq_exp.paper import page
from bcq_exp.paper.claims import AGENT, BEHAVIOUR, TRUTH, Claim, Comparison, decide, sign_flip
from bcq_exp.paper.results import Results
from bcq_exp.paper.table import table
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_run
from tests.paper.test_plan import plan

SETTINGS = ("imitation", "imperfect")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Makes results of 2 settings, 3 environments, 3 seeds, where algorithms score as told."""
    monkeypatch.chdir(tmp_path)
    made = plan("budget=small", f"settings=[{','.join(SETTINGS)}]", "algorithms=[bcq,bc,ddpg]")

    def make(score, *, value=lambda algo: 50.0, behaviour=20.0, left_out=(), failed=()):
        for folder in made.agents.folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            for step in (50_000, 80_000, 100_000):  # the last two are of the last quarter
                row = {"step": step, "normalized_score": step / 1000}
                RunRecord(folder).append("eval", row)
        names = {(d.setting, d.env, d.seed): d.id for d in made.datasets}
        for sweep in made.sweeps:
            low, high = environments.reference_scores(environments.find_spec("x", sweep.env))
            for (algo, seed), folder in sweep.folders.items():
                if (algo, seed) in left_out:
                    continue
                returns = [score(algo, sweep.setting, seed, i) for i in range(8)]
                make_run(
                    folder,
                    returns,
                    seed=seed,
                    scored=True,
                    evaluated={
                        "discounted_return_mean": 50.0,
                        "value_mean": None if algo == "bc" else value(algo),
                    },
                    dataset=names[sweep.setting, sweep.env, seed],
                    status="failed" if (algo, seed) in failed else "completed",
                    behaviour_return=low + behaviour / 100 * (high - low),
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


def test_runs_that_failed_have_no_pairs_and_that_is_said(results):
    made = results(lambda algo, *_: {"ddpg": -50.0}.get(algo, 1.0), failed={("ddpg", 2)})
    first = verdict(made, "bcq", "ddpg", SETTINGS).decisions[0]
    assert (first.num_pairs, first.num_planned) == (6, 9)
    assert "6 of 9 pairs" in str(first)


def test_an_agent_is_what_its_own_last_evaluations_say(results):
    made = results(lambda algo, *_: 70.0)
    first = verdict(made, AGENT, "ddpg", SETTINGS).decisions[0]
    assert first.difference.value == pytest.approx(90 - 70)
    assert verdict(made, AGENT, "ddpg", SETTINGS).verdict == "held"


def test_the_files_of_the_results(results, tmp_path, opened):
    made = results(lambda algo, setting, seed, i: {"bcq": 60.0}.get(algo, 30.0) + seed)
    decided = decide(made)
    page.write(made, decided, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "index.html", "curves.svg", "values.svg", "table.md", "table.tex", "claims.md", "runs.csv",
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
    assert row.split(" | ")[2:4] == ["**61.0 ± 1.0**", "31.0 ± 1.0"]
    assert r"\bottomrule" in table(made, "tex")
    assert len((tmp_path / "out" / "runs.csv").read_text().splitlines()) == 1 + 2 * 3 * 3 * 3
    shown = opened(tmp_path / "out" / "index.html")
    assert shown.locator(".verdict").count() == len(decided)
    assert shown.locator(".lead svg").count() == 2
    tasks = shown.evaluate("DATA.behaviour")
    assert sorted(tasks) == sorted(f"{s}, {e}" for s in SETTINGS for e in made.envs)
    assert json.loads(json.dumps(shown.evaluate("DATA.keys"))) == ["algo"]
