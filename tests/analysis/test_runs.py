"""Folders as tables: which keys differ, what is odd, what is damaged."""

import json
import shutil
from contextlib import ExitStack
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from bcq_exp import compare
from bcq_exp.analysis import load_runs, summary
from bcq_exp.analysis.findings import findings
from bcq_exp.analysis.report import page_data
from bcq_exp.analysis.run_folders import run_folders
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.analysis.tables import aggregate_csv, digits, paper_table, standing_apart
from bcq_exp.errors import UserError
from bcq_exp.training.folders import hold
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_grid, make_run
from tests.forked import forked


def test_a_sweep_is_a_table_and_the_keys_that_vary_are_found(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s"))
    assert len(runs.runs) == 12
    assert runs.keys == ("algo.lmbda", "algo.tau")
    assert set(runs.groups()) == {
        f"lmbda={lmbda}, tau={tau}" for lmbda in ("0.5", "1") for tau in ("0.001", "0.01")
    }
    assert set(runs.groups(["algo.tau"])) == {"tau=0.001", "tau=0.01"}
    assert len(runs.evaluations) == 24
    assert list(runs.evaluations.columns[:3]) == ["run", "step", "wall_time"]
    assert runs.evaluations["wall_time"][0] == pytest.approx(10.0)
    assert len(runs.training) == 240
    assert runs.notes == ()


def test_runs_folders_and_globs_can_be_given(tmp_path):
    make_grid(tmp_path / "s")
    one = make_run(tmp_path / "alone", [1.0])
    assert len(load_runs(one).runs) == 1
    assert len(load_runs(f"{tmp_path}/s/*seed=0").runs) == 4
    both = load_runs(tmp_path / "s", one, one)
    assert len(both.runs) == 13
    assert len(load_runs(tmp_path).runs) == 13  # a single run beside a sweep
    with pytest.raises(UserError, match="no runs found"):
        load_runs(tmp_path / "nothing")


def test_last_parts_of_keys_that_collide_are_written_whole(tmp_path):
    make_run(tmp_path / "s" / "a", [1.0], changes={"actor_optim.lr": 0.1, "vae_optim.lr": 0.1})
    make_run(tmp_path / "s" / "b", [1.0])
    labels = load_runs(tmp_path / "s").groups()
    assert labels[0] == "actor_optim.lr=0.1, vae_optim.lr=0.1"


def test_runs_are_named_by_their_folders_and_by_their_sweeps_where_those_are_alike(tmp_path):
    for name in ("a/x", "a/10", "a/9", "b/9"):
        make_run(tmp_path / name, [1.0])
    assert list(load_runs(tmp_path / "a").runs["name"]) == ["9", "10", "x"]
    both = load_runs(tmp_path / "b", tmp_path / "a").runs["name"]
    assert list(both) == ["b/9", "a/9", "a/10", "a/x"]
    for name in ("s/a/9", "t/a/9"):
        make_run(tmp_path / name, [1.0])
    names = load_runs(tmp_path / "s", tmp_path / "t").runs["name"]
    assert list(names) == ["s/a/9", "t/a/9"]
    (tmp_path / "a" / "10").rename(tmp_path / "a" / "²")  # a digit, but no number
    assert list(load_runs(tmp_path / "a").runs["name"]) == ["9", "x", "²"]


def test_runs_in_nested_folders_of_a_sweep_are_found(tmp_path):
    for name in ("a/0", "a/10", "b/2", ".set_aside/c.1"):
        make_run(tmp_path / "s" / name, [1.0])
    assert [str(folder.relative_to(tmp_path)) for folder in run_folders(tmp_path / "s")] == [
        "s/a/0", "s/a/10", "s/b/2",
    ]  # fmt: skip
    make_run(tmp_path / "alone", [1.0])
    assert len(run_folders(tmp_path)) == 4


def test_runs_of_one_name_in_nested_folders_have_their_own_estimates(tmp_path):
    for name in ("a/seed=0", "b/seed=0"):
        make_run(tmp_path / "s" / name, [1.0])
    judged = [{"folder": f"moved/{name}/seed=0", "fqe": fqe} for name, fqe in (("a", 1), ("b", 2))]
    place = str(tmp_path / "s")
    found = compare._estimated(load_runs(place), {"policies": judged}, [place])
    assert found == {0: 1, 1: 2}


def test_estimates_of_other_settings_than_those_of_most_runs_are_not_compared(tmp_path):
    for seed, gammas in enumerate(((0.99,), (0.99, 1.0), (0.5,))):
        record = RunRecord(make_run(tmp_path / "s" / str(seed), [], seed=seed))
        for gamma in gammas:
            row = {"step": 10, "settings": {"gamma": gamma}, "fqe": seed + 100 * gamma}
            record.add_estimate(row)
    again = {"step": 20, "settings": {"gamma": 0.99, "num_steps": 7}, "fqe": 102.0}
    RunRecord(tmp_path / "s" / "0").add_estimate(again)
    place = str(tmp_path / "s")
    assert compare._estimated(load_runs(place), None, [place]) == {0: 102.0, 1: 100.0}
    make_run(tmp_path / "t" / "0", [])
    place = str(tmp_path / "t")
    assert compare._estimated(load_runs(place), None, [place]) == {}


def test_what_is_odd_is_said_and_what_is_damaged_left_out(tmp_path):
    make_run(tmp_path / "s" / "a", [1.0, 2.0])
    half = make_run(tmp_path / "s" / "b", [1.0, 2.0, 3.0], seed=1, dataset="other/set-v0")
    with (half / "eval.csv").open("a") as file:
        file.write("4000,12")
    make_run(tmp_path / "s" / "c", [], seed=2)
    broken = make_run(tmp_path / "s" / "d", [1.0], seed=3)
    (broken / "summary.json").write_text('{"status": ')
    runs = load_runs(tmp_path / "s")
    said = "\n".join(runs.notes)
    assert len(runs.runs) == 3
    assert "the last line of eval.csv is half-written" in said
    assert "c: no evaluation yet" in said
    assert "several data sets (made/up-v0, other/set-v0)" in said
    assert "different lengths (1000, 2000, 3000 steps)" in said
    assert "summary.json is damaged" in said
    assert len(runs.evaluations) == 5


def test_returns_that_are_not_finite_are_left_out_and_noted(tmp_path):
    """The page would end with an error."""
    for seed, last in enumerate((1.0, np.nan, -np.inf)):
        make_run(tmp_path / str(seed), [0.0, last], seed=seed)
    found = ComparedRuns(load_runs(tmp_path))
    assert [found.aggregates[0].num_runs, found.aggregates[0].estimates["iqm"].value] == [1, 1.0]
    note = "the last return of 2 runs is not finite (1, 2): they are left out"
    assert note in found.notes


def test_aggregates_are_those_of_the_last_or_best_evaluations(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s"))
    found = {a.group: a for a in ComparedRuns(runs).aggregates}
    best = found["lmbda=1, tau=0.01"]
    assert best.estimates["mean"].value == pytest.approx(12.0)  # 11, 12, 13
    assert best.num_runs == 3
    assert best.std == pytest.approx(1.0)
    assert best.estimates["mean"].high - 12 == pytest.approx(6.965 / 3**0.5, rel=0.1)  # t, 2 free
    assert "optimality_gap" not in best.estimates  # of returns there is none
    order = [a.group for a in ComparedRuns(runs).aggregates]
    assert order[0] == "lmbda=1, tau=0.01"
    assert order[-1] == "lmbda=0.5, tau=0.001"


def test_scores_are_compared_where_every_run_has_one(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s", scored=True))
    found = ComparedRuns(runs)
    assert found.measure == "normalized score"
    assert len(found.values) == 12
    assert found.aggregates[0].estimates["optimality_gap"].value == pytest.approx(88.0)


def test_marginals_and_importances(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s"))
    table = ComparedRuns(runs).marginal("algo.lmbda")
    assert list(table["value"]) == ["0.5", "1"]
    assert list(table["num_runs"]) == [6, 6]
    np.testing.assert_allclose(table["mean"], [6.55, 11.55])
    shares = ComparedRuns(runs).importances
    assert next(iter(shares)) == "algo.lmbda"
    assert shares["algo.lmbda"] > 0.8
    assert shares.keys() == {"algo.lmbda", "algo.tau", "seed"}


def test_the_values_of_a_marginal_are_in_their_order_and_many_are_quarters(tmp_path):
    for k, value in enumerate((2, 10)):
        make_run(tmp_path / "few" / str(k), [1.0], changes={"algo.x": value})
    assert list(ComparedRuns(load_runs(tmp_path / "few")).marginal("algo.x")["value"]) == [
        "2",
        "10",
    ]
    for k in range(1, 10):
        make_run(tmp_path / "many" / str(k), [float(k)], changes={"algo.x": k})
    for i in range(8):
        make_run(tmp_path / "near" / str(i), returns=[i], changes={"algo.x": 1 + i * 1e-5})
    near = ComparedRuns(load_runs(tmp_path / "near")).marginal("algo.x")
    assert list(near["num_runs"]) == [2, 2, 2, 2] and near["value"].is_unique
    table = ComparedRuns(load_runs(tmp_path / "many")).marginal("algo.x")
    assert list(table["value"]) == ["1 – 3", "3 – 5", "5 – 7", "7 – 9"]
    assert list(table["num_runs"]) == [3, 2, 2, 2]  # an edge belongs to the quarter below it
    assert list(table["mean"]) == [2.0, 4.5, 6.5, 8.5]


def test_a_marginal_has_the_values_of_labels_in_the_order_of_numbers(tmp_path):
    steps = ({"changes": {"trainer.num_steps": n}} for n in (100_000, 12_345))
    runs, found, _ = groups_of(tmp_path / "steps", *steps)
    values = list(ComparedRuns(runs).marginal("trainer.num_steps")["value"])
    assert [f"num_steps={value}" for value in values] == found[::-1] == [
        "num_steps=12345", "num_steps=100000",
    ]  # fmt: skip
    lrs = ({"changes": {"algo.lr": lr}} for lr in (0.001, 1e-5, 10.0, 2.0))
    runs, _, _ = groups_of(tmp_path / "lrs", *lrs, {"changes": {"algo._target_": "mine.Own"}})
    levels = list(ComparedRuns(runs).marginal("algo.lr")["value"])
    assert levels == ["–", "1e-05", "0.001", "2", "10"]


def test_the_behaviours_score_follows_from_the_reference_scores(tmp_path):
    scale = {"reference_scores": [10.0, 30.0], "behaviour_return": 15.0}
    for k, value in enumerate((10.0, 30.0)):
        make_run(tmp_path / f"a{k}", [value], **scale)
    make_run(tmp_path / "b", [7.0], dataset="other/set-v0")
    found = ComparedRuns(load_runs(tmp_path)).behaviour_scores
    np.testing.assert_allclose(found, [25.0, 25.0, np.nan])


def test_groups_on_other_data_sets_or_unevenly_divided_are_noted(tmp_path):
    """Pooled, the worse algorithm of both data sets may be the better one."""
    for folder, lmbda, task, count in (("a", 1.0, "easy/v0", 3), ("b", 0.5, "hard/v0", 3)):
        for seed in range(count):
            changes = {"algo.lmbda": lmbda}
            name = f"{folder}{seed}"
            make_run(tmp_path / name, [1.0], seed=seed, changes=changes, dataset=task, scored=True)
    notes = ComparedRuns(load_runs(tmp_path)).notes
    assert (
        "groups have runs on different data sets (lmbda=1: 3 on easy/v0; lmbda=0.5: 3 on "
        "hard/v0): their aggregates are not comparable; give runs on the same ones"
    ) in notes
    for seed in range(3):
        for lmbda, task, count in ((1.0, "hard/v0", 3), (0.5, "easy/v0", 2)):
            changes = {"algo.lmbda": lmbda}
            if seed < count:
                folder = tmp_path / f"{task[:4]}{seed}"
                make_run(folder, [1.0], seed=seed, changes=changes, dataset=task, scored=True)
    uneven = ComparedRuns(load_runs(tmp_path)).notes
    assert not any("not comparable" in note for note in uneven)
    assert (
        "1 group with more runs on one data set than on another (lmbda=0.5: 2 on easy/v0, 3 on "
        "hard/v0): it weighs more in their aggregates"
    ) in uneven
    for k in range(5):  # which are even, and not named
        for task in ("easy/v0", "hard/v0"):
            changes, folder = {"algo.lmbda": k / 100}, tmp_path / f"{k}{task[:4]}"
            make_run(folder, [1.0], changes=changes, dataset=task, scored=True)
    assert not any("..." in note for note in ComparedRuns(load_runs(tmp_path)).notes)


def test_running_runs_are_noted_with_their_steps(tmp_path):
    make_run(tmp_path / "a", [5.0, 3.0])
    for name, step in (("b", 420), ("c", 760)):
        folder = make_run(tmp_path / name, [1.0, 4.0], seed=step, status="running", step=step)
        assert load_runs(folder).notes == ()  # no process has it: it was interrupted
    with ExitStack() as held:
        for name in ("b", "c"):
            held.enter_context(hold(tmp_path / name))
        notes = load_runs(tmp_path).notes
    assert (
        "2 runs are still running, at steps 420 to 760 of 2000: last evaluations are at other "
        "steps than those of completed runs"
    ) in notes


def test_tables_say_that_the_best_evaluation_was_chosen(tmp_path):
    found = ComparedRuns(load_runs(make_grid(tmp_path / "s")), "best")
    for form in ("md", "tex"):
        table = paper_table(found, form)
        assert "made/up-v0 (best return)" in table
        assert "Each run's best evaluation is chosen in hindsight: results are higher" in table
    assert any("hindsight" in note for note in found.notes)


def test_runs_of_a_sweep_that_have_not_begun_are_noted(tmp_path):
    """The table would otherwise be that of the whole sweep."""
    sweep = tmp_path / "s"
    make_grid(sweep)
    there = [path.name for path in sweep.iterdir()]
    (sweep / "sweep.json").write_text(json.dumps({"commands": [], "runs": [*there, "x", "y"]}))
    done = forked("s", module="bcq_exp.compare", cwd=tmp_path)
    assert (
        "note: 2 of 14 runs of s have not begun (x, and 1 more): groups may lack runs, or be "
        "missing\n"
    ) in done.stdout
    table = forked("s", "format=md", module="bcq_exp.compare", cwd=tmp_path)
    assert "2 of 14 runs" in table.stderr and "2 of 14 runs" not in table.stdout
    page = (sweep / "report" / "index.html").read_text()
    assert "2 of 14 runs" in page
    chosen = forked(f"s/{there[0]}", module="bcq_exp.compare", cwd=tmp_path)
    assert "not begun" not in chosen.stdout  # of runs that are given one by one


def test_watching_goes_on_between_two_groups_of_a_sweep(tmp_path):
    runs, sweep = load_runs(make_run(tmp_path / "s" / "a", [1.0])), tmp_path / "s"
    with hold(sweep):
        assert compare._is_underway([str(sweep)], runs)
    assert not compare._is_underway([str(sweep)], runs)


def test_the_best_evaluation_is_compared_where_it_is_asked_for(tmp_path):
    make_run(tmp_path / "a", [5.0, 3.0])
    make_run(tmp_path / "b", [1.0, 4.0])
    runs = load_runs(tmp_path)
    assert list(ComparedRuns(runs).values) == [3.0, 4.0]
    assert list(ComparedRuns(runs, "best").values) == [5.0, 4.0]


def test_a_seed_is_a_name_not_a_quantity(tmp_path):
    values = np.random.default_rng(0).permutation(8)  # no quarter of the seeds is alike
    for lmbda in (0.5, 1.0):
        for seed, value in enumerate(values):
            folder = tmp_path / f"{lmbda}-{seed}"
            make_run(folder, [float(value)], seed=seed, changes={"algo.lmbda": lmbda})
    assert ComparedRuns(load_runs(tmp_path)).importances == {"seed": 1.0, "algo.lmbda": 0.0}


def test_what_is_worth_an_eye_is_found(tmp_path):
    s = tmp_path / "s"
    make_run(s / "0fine", [1.0])
    make_run(s / "1failed", [1.0], seed=1, status="failed", failure="a loss is not finite")
    make_run(s / "2grows", [1.0], seed=2, training={"q1_mean": 2.0 ** np.arange(20)})
    seldom = np.where(np.arange(20) % 2, 1.0, np.nan)  # not reported in the other rows
    make_run(s / "2seldom", [1.0], seed=12, training={"q2_mean": seldom})
    make_run(s / "2infinite", [1.0], seed=13, training={"q2_mean": np.inf})
    make_run(s / "3dead", [1.0], seed=3, training={"kl_loss": 1e-5}, trouble=["dead VAE"])
    stuck = {"perturbation_abs_mean": 0.099}
    make_run(s / "4stuck", [1.0], seed=4, training=stuck, trouble=["perturbation at phi"])
    make_run(s / "9briefly", [1.0], seed=9, training={"kl_loss": 1e-5}, trouble=[])
    make_run(s / "8killed", [1.0], seed=8, status="running")
    with ExitStack() as running:
        for seed, (name, step) in enumerate({"5fast": 900, "6slow": 100, "7fast": 900}.items(), 5):
            folder = make_run(s / name, [1.0], seed=seed, status="running", step=step)
            running.enter_context(hold(folder))
        runs = load_runs(s)
    found = {(runs.runs["name"][f.run], f.kind) for f in findings(runs)}
    assert found == {
        ("1failed", "failed"),
        ("2grows", "diverging Q"),
        ("2infinite", "diverging Q"),
        ("3dead", "dead VAE"),
        ("4stuck", "perturbation at phi"),
        ("6slow", "lags behind"),
        ("8killed", "interrupted"),
    }


def test_the_papers_table_in_markdown_and_latex(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s"))
    table = paper_table(ComparedRuns(runs), "md")
    lines = table.splitlines()
    assert lines[:2] == [
        "| lmbda | tau | runs | made/up-v0 (return) |",
        "| ---: | ---: | ---: | ---: |",
    ]
    assert "| 1 | 0.001 | 3 | 11.1 ± 1.0 |" in lines
    assert "**" not in table  # no interval lies apart
    tex = paper_table(ComparedRuns(runs), "tex", show="iqm")
    assert tex.splitlines()[0] == r"\begin{tabular}{rrrc}"
    assert tex.splitlines()[2] == r"lmbda & tau & runs & made/up-v0 (return) \\"
    (row,) = [line for line in tex.splitlines() if line.startswith("1 & 0.01 & ")]
    assert row.startswith("1 & 0.01 & 3 & $12.0 [8.") and row.endswith(r"]$ \\")
    assert tex.splitlines()[-1].startswith("% IQM [interval]. Bold: ")
    assert table.splitlines()[-1].endswith("in 92% to 99% of cases.")
    shutil.rmtree(tmp_path / "s")
    make_grid(tmp_path / "s", num_seeds=5)
    for k in range(3):
        make_run(tmp_path / "s" / f"far{k}", [90.0 + k], seed=k, changes={"algo.tau": 0.5})
    assert "**" not in paper_table(
        ComparedRuns(load_runs(tmp_path / "s")), "md"
    )  # three are too few
    for k in range(3, 5):
        make_run(tmp_path / "s" / f"far{k}", [90.0 + k], seed=k, changes={"algo.tau": 0.5})
    assert "| **92.0 ± 1.6** |" in paper_table(ComparedRuns(load_runs(tmp_path / "s")), "md")
    assert r"$\mathbf{92.0 \pm 1.6}$" in paper_table(ComparedRuns(load_runs(tmp_path / "s")), "tex")


def test_aggregates_as_csv_are_numbers(tmp_path):
    make_grid(tmp_path / "s")
    own = {"algo._target_": "mine.Own", "algo.tau": "x_y", "critic.hidden": [64, 32]}
    make_run(tmp_path / "s" / "own", [3.0], changes=own)
    runs = load_runs(tmp_path / "s")
    table = pd.read_csv(StringIO(aggregate_csv(ComparedRuns(runs))))
    assert list(table.columns[:4]) == ["algo", "algo.lmbda", "algo.tau", "measure"]
    assert list(table["mean"]) == sorted(table["mean"], reverse=True)
    (best,) = ComparedRuns(runs).aggregates[:1]
    assert tuple(table.loc[0, ["iqm", "iqm_low", "iqm_high"]]) == tuple(best.estimates["iqm"])
    assert (table["runs"][0], table["std"][0]) == (3, pytest.approx(1.0))
    (alone,) = table[table["algo"] == "Own"].to_dict("records")
    assert (alone["mean"], alone["measure"]) == (3.0, "last return")
    assert np.isnan(alone["mean_low"])  # one run has no interval
    rows = paper_table(ComparedRuns(runs), "tex").splitlines()
    assert rows[0] == r"\begin{tabular}{lrlrc}"
    assert any(r"x\_y & 1 & $3.0$ \\" in row for row in rows)  # without the deviation of one run
    iqm = paper_table(ComparedRuns(runs), "tex", show="iqm").splitlines()
    assert any(r"x\_y & 1 & $3.0$ \\" in row for row in iqm)  # nor an interval


def test_bold_wants_an_interval_that_lies_apart():
    from bcq_exp.analysis.statistics import Estimate

    num_runs, nan = {"a": 4, "b": 4}, float("nan")
    assert standing_apart({"a": Estimate(5, 4, 6), "b": Estimate(2, 1, 3)}, num_runs) == "a"
    assert standing_apart({"a": Estimate(5, 2, 6), "b": Estimate(2, 1, 3)}, num_runs) is None
    assert standing_apart({"a": Estimate(5, nan, nan), "b": Estimate(2, 1, 3)}, num_runs) is None
    assert [digits(x) for x in (1234.56, 12.345, nan)] == ["1235", "12.3", "–"]


def test_few_seeds_are_said_and_one_has_no_interval(tmp_path):
    runs = load_runs(make_grid(tmp_path / "s", num_seeds=1))
    data = page_data(ComparedRuns(runs), tmp_path)
    assert "every group has too few runs for an interval" in data["notes"][-1]
    assert all(a["iqm"][1:] == [None, None] for a in data["aggregates"]["last"])
    json.dumps(data, allow_nan=False)
    make_grid(tmp_path / "t", num_seeds=3)
    assert (
        "every group has 3 runs: intervals are wide"
        in page_data(ComparedRuns(load_runs(tmp_path / "t")), tmp_path)["notes"][-1]
    )


def groups_of(folder, *runs):
    """What runs that differ in one thing are told apart by, and what is said of them."""
    for number, keywords in enumerate(runs):
        make_run(folder / str(number), [1.0], **keywords)
    runs = load_runs(folder)
    return runs, list(runs.groups()), "\n".join(runs.notes)


@pytest.mark.parametrize(
    ("key", "values", "groups"),
    [
        ("dataset.noise_std", (0.1, 0.5), ["noise_std=0.1", "noise_std=0.5"]),
        ("dataset.holdout", (None, 0.5), ["holdout=null", "holdout=0.5"]),
        ("dataset.env", (None, "Other-v0"), ["env=null", "env=Other-v0"]),
        ("trainer.num_steps", (120, 240), ["num_steps=120", "num_steps=240"]),
        ("critic._target_", ("my.Small", "my.Deep"), ["critic=my.Small", "critic=my.Deep"]),
        ("policy.action_scaling", (False, True), ["action_scaling=false", "action_scaling=true"]),
    ],
)
def test_what_decides_a_result_is_grouped_by(key, values, groups, tmp_path):
    _, found, _ = groups_of(tmp_path, *({"changes": {key: value}} for value in values))
    assert found == groups


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trainer.eval_episodes", (5, 10)),
        ("trainer.eval_every", (5, 10)),
        ("trainer.eval_seed", (5, 10)),
        ("trainer.device", ("cpu", "cuda")),
    ],
)
def test_what_else_differs_is_said(key, values, tmp_path):
    _, found, said = groups_of(tmp_path, *({"changes": {key: value}} for value in values))
    assert found == ["all runs"] * 2
    assert f"groups contain runs that differ in {key} ({values[0]}, {values[1]})" in said


def test_of_what_differs_between_groups_only_the_trainers_keys_are_said(tmp_path):
    runs = [
        {
            "changes": {"algo._target_": algo, "actor_optim.lr": lr, "trainer.eval_seed": lr},
            "seed": k,
        }
        for algo, lr in (("my.A", 1), ("my.B", 2))
        for k in range(2)
    ]
    _, found, said = groups_of(tmp_path, *runs)
    assert len(set(found)) == 2
    assert "groups differ in trainer.eval_seed (1, 2), too" in said
    assert "contain" not in said and "lr" not in said


def test_runs_that_repeat_others_are_named(tmp_path):
    alike = {"changes": {"algo.tau": 0.1, "trainer.device": "cuda"}, "seed": 1}
    other_data = {**alike, "dataset_facts": {"content_hash": "4" * 64}}
    _, _, said = groups_of(tmp_path, {}, alike, {**alike, "seed": 2}, alike, other_data, {})
    assert "2 runs repeat another with the same configuration, seed and data (3, 5): " in said
    _, _, said = groups_of(tmp_path / "apart", {}, alike, {**alike, "seed": 2}, other_data)
    assert "repeat" not in said


def test_names_and_dashboards_differ_without_a_word(tmp_path):
    changes = ({"name": name, "logger.project": name, "dataset.download": name} for name in "ab")
    several = ({"changes": each, "seed": seed} for seed, each in enumerate(changes))
    runs, found, _ = groups_of(tmp_path, *several)
    assert found == ["all runs"] * 2
    assert runs.notes == ()


def test_other_contents_of_one_id_are_another_data_set_with_its_own_behaviour(tmp_path):
    contents = (
        {"id": "a/b-v0", "content_hash": c * 64, "behaviour_return": value}
        for c, value in (("3", 5.0), ("4", 7.0))
    )
    paths = ("a/buffer.hdf5", "b/buffer.hdf5")
    runs, found, said = groups_of(
        tmp_path,
        *(
            {"dataset_facts": facts, "changes": {"dataset.path": path}}
            for facts, path in zip(contents, paths, strict=True)
        ),
    )
    assert found == ["all runs"] * 2
    assert list(runs.runs["dataset"]) == ["a/b-v0@33333333", "a/b-v0@44444444"]
    files = "a/b-v0@33333333 of a/buffer.hdf5, a/b-v0@44444444 of b/buffer.hdf5"
    assert f"2 different contents: each is shown as a separate data set ({files})" in said
    header = paper_table(ComparedRuns(runs), "md").splitlines()[0]
    assert "a/b-v0@33333333 (return) | a/b-v0@44444444 (return)" in header
    data = page_data(ComparedRuns(runs), tmp_path)
    assert [run["behaviour_return"] for run in data["runs"]] == [5.0, 7.0]


def test_a_key_of_the_data_groups_among_runs_on_the_same_data(tmp_path):
    _, found, said = groups_of(
        tmp_path,
        {"dataset": "a/b-v0", "changes": {"dataset.holdout": None}},
        {"dataset": "c/d-v0", "changes": {"dataset.holdout": 0.5}},
    )
    assert found == ["all runs"] * 2
    assert "dataset.holdout (null, 0.5)" in said


def test_a_key_that_an_algorithm_lacks_is_a_dash_and_null_is_null(tmp_path):
    runs, _, _ = groups_of(tmp_path, {"changes": {"algo.x": None}}, {"changes": {"algo.x": 1}}, {})
    assert list(summary.key_column(runs, "algo.x")) == ["null", "1", "–"]
    levels = ComparedRuns(runs).marginal("algo.x")["value"]
    assert sorted(levels) == ["1", "null", "–"]


def test_a_group_without_any_key_has_a_label_and_a_seed_of_data_is_not_the_runs(tmp_path):
    noise = ({"changes": {"dataset.noise_std": std}} for std in (0.1, 0.5))
    _, found, _ = groups_of(tmp_path / "noise", *noise, {"dataset": "other/set-v0"})
    assert found == ["noise_std=0.1", "noise_std=0.5", "noise_std=–"]
    seeds = ({"changes": {"dataset.seed": seed}} for seed in (1, 2))
    runs, found, _ = groups_of(tmp_path / "seeds", *seeds)
    assert found == ["dataset.seed=1", "dataset.seed=2"]
    assert paper_table(ComparedRuns(runs), "md").startswith("| dataset.seed | runs |")


def test_algorithms_of_one_name_are_told_apart_and_what_else_they_differ_in_is_said(tmp_path):
    own = {"algo._target_": "mine.BCQ", "trainer.batch_size": 7}
    _, found, said = groups_of(tmp_path, {}, {"changes": own})
    assert found == ["algo=bcq_exp.algorithm.bcq.BCQ", "algo=mine.BCQ"]
    assert "trainer.batch_size (100, 7)" in said


def test_versions_commits_and_failures_are_said(tmp_path):
    versions = ({"torch": "2", "mujoco": "3.3"}, {"torch": "2", "mujoco": "3.4"})
    _, _, said = groups_of(
        tmp_path,
        {"versions": versions[0], "git_commit": "abc"},
        {"versions": versions[1], "git_commit": None, "status": "failed"},
    )
    assert "several versions of mujoco (3.3, 3.4), commit (abc, null)" in said
    assert "1 run failed: the last evaluation of 1 of them is compared" in said
    before = {"step": 5, "versions": versions[0], "git_commit": "a" * 40}
    _, _, said = groups_of(tmp_path / "resumed", {"git_commit": "b" * 40, "earlier": [before]})
    assert "commit (aaaaaaaa, bbbbbbbb)" in said


def test_values_that_are_close_are_other_groups(tmp_path):
    for number, gamma in enumerate((0.99991, 0.99994)):
        make_run(tmp_path / "s" / str(number), [1.0], changes={"algo.gamma": gamma})
    runs = load_runs(tmp_path / "s")
    assert list(runs.groups()) == ["gamma=0.99991", "gamma=0.99994"]
    assert list(ComparedRuns(runs).marginal("algo.gamma")["value"]) == ["0.99991", "0.99994"]


def test_values_have_only_the_digits_that_distinguish_them(tmp_path):
    _, found, _ = groups_of(
        tmp_path, *({"changes": {"algo.tau": x}} for x in (0.123412345678, 0.123423456789, 0.5))
    )
    assert found == ["tau=0.12341", "tau=0.12342", "tau=0.5"]


def test_a_run_counts_once_however_it_is_spelt_and_a_place_without_runs_is_refused(tmp_path):
    one = make_run(tmp_path / "p[1]" / "one", [1.0])
    assert len(load_runs(one, tmp_path / "p[1]" / ".." / "p[1]").runs) == 1
    with pytest.raises(UserError, match="nothere: no runs found"):
        load_runs(one, tmp_path / "nothere")


def test_of_several_data_sets_those_without_a_score_are_left_out_and_named(tmp_path):
    make_run(tmp_path / "s" / "a", [30.0], scored=True)
    make_run(tmp_path / "s" / "b", [-500.0], dataset="other/set-v0")
    runs = load_runs(tmp_path / "s")
    found = ComparedRuns(runs)
    assert found.measure == "normalized score" and list(found.values.dropna()) == [30.0]
    assert any("left out, as without reference scores: other/set-v0" in note for note in runs.notes)
