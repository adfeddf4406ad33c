"""Figures for papers: what they draw, in which colours, and the files they become."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from bcq_exp.analysis import figures, load_runs, statistics, summary
from bcq_exp.analysis.colours import PALETTE, SHADES, mixed, of_algorithms, styles
from bcq_exp.analysis.summary import ComparedRuns
from tests.analysis.made_up import make_grid, make_run
from tests.forked import forked

DRAWN = (
    "learning_curves", "aggregates", "profiles", "improvement", "hyperparameters", "diagnostics",
)  # fmt: skip


def test_the_command_writes_figures_a_table_and_numbers(tmp_path):
    make_grid(tmp_path / "s")
    done = forked("s", "--figures", "out/figs", module="bcq_exp.compare", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2] == f"figures: {tmp_path}/out/figs"
    folder = tmp_path / "out" / "figs"
    names = {f"{name}.{form}" for name in DRAWN for form in ("svg", "pdf")}
    assert {path.name for path in folder.iterdir()} == {*names, "table.tex", "aggregates.csv"}
    for name in DRAWN:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        pdf = (folder / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf  # which publishers refuse
    assert "lmbda=1, tau=0.01" in (folder / "profiles.svg").read_text()  # text, not outlines
    assert (folder / "table.tex").read_text().startswith(r"\begin{tabular}{rrrc}")
    (tmp_path / "file").write_text("")
    done = forked("s", "--figures", "file/x", module="bcq_exp.compare", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: figures=file/x: ")


def test_dollars_in_a_name_are_no_formula(tmp_path):
    for number, value in enumerate((r"$\frac$", "$x$")):
        made = {"dataset": f"data{value}", "changes": {"algo.lmbda": value}}
        make_run(tmp_path / "s" / str(number), [1.0, 2.0], **made)
    figures.write_figures(ComparedRuns(load_runs(tmp_path / "s")), tmp_path)
    drawn = (tmp_path / "learning_curves.svg").read_text()
    assert all(text in drawn for text in (r"lmbda=$\frac$", "lmbda=$x$", r"data$\frac$", "data$x$"))


def test_a_curve_has_a_gap_where_a_run_has_ended(tmp_path):
    """From there on the mean is of the others, and may jump."""
    for seed, returns in enumerate(([0.0, 0.0], [0.0, 0.0], [9.0] * 4, [9.0] * 4)):
        changes = {"trainer.num_steps": 4000}
        make_run(tmp_path / "s" / str(seed), returns, seed=seed, changes=changes)
    groups = figures.Groups(ComparedRuns(load_runs(tmp_path / "s")))
    (axes,) = figures.learning_curves(groups).axes
    (curve,) = (line for line in axes.lines if line.get_label() == "all runs")
    np.testing.assert_array_equal(curve.get_xdata(), [1000, 2000, 2000.5, 3000, 4000])
    np.testing.assert_array_equal(curve.get_ydata(), [4.5, 4.5, np.nan, 9.0, 9.0])


def test_runs_that_are_evaluated_at_other_steps_are_interpolated(tmp_path):
    """As on the page; the mean would alternate between one run and both."""
    rows = [(0, 1, 0.0), (0, 2, 2.0), (0, 3, 4.0), (0, 4, 6.0), (1, 2, 10.0), (1, 4, 20.0)]
    table = pd.DataFrame(rows, columns=["run", "step", "return_mean"])
    band = figures._band(table, "return_mean")
    assert dict(band["mean"]) == {1: 0.0, 2: 6.0, 3: 9.5, 4: 13.0}


def test_curves_are_means_with_t_intervals_and_few_runs_are_marked(tmp_path):
    make_grid(tmp_path / "s", num_seeds=4)
    make_run(tmp_path / "s" / "few", [1.0, 2.0], changes={"algo.tau": 0.5})
    groups = figures.Groups(ComparedRuns(load_runs(tmp_path / "s")))
    (axes,) = figures.learning_curves(groups).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert {"lmbda=1, tau=0.01", "lmbda=0.75, tau=0.5 †", "behaviour"} < lines.keys()
    assert lines["lmbda=1, tau=0.01"].get_ydata() == pytest.approx([6.25, 12.5])  # 11 to 14
    assert lines["behaviour"].get_ydata() == [5.0, 5.0]
    reach = statistics.margin(3) * np.std([11, 12, 13, 14], ddof=1) / 2
    tops = [path.vertices[:, 1].max() for area in axes.collections for path in area.get_paths()]
    assert max(tops) == pytest.approx(12.5 + reach)


def test_diagnostics_are_means_of_each_logged_statistic(tmp_path):
    for seed in range(4):
        training = {"kl_loss": np.linspace(seed, seed + 1, 20)}
        statistics_ = ("vae_loss", "kl_loss", "q1_mean")
        make_run(tmp_path / "s" / str(seed), [1.0], seed=seed, training=training,
                 statistics=statistics_)  # fmt: skip
    runs = load_runs(tmp_path / "s")
    panels = figures.diagnostics(figures.Groups(ComparedRuns(runs))).axes
    by_name = {axes.get_ylabel(): axes for axes in panels}
    assert list(by_name) == ["vae loss", "kl loss", "q1 mean"]  # losses first
    line = by_name["kl loss"].lines[0]
    assert line.get_ydata() == pytest.approx(np.linspace(1.5, 2.5, 20))
    assert line.get_xdata()[-1] == 1000


def test_of_many_groups_figures_show_the_best_few_in_their_algorithms_colours(tmp_path):
    for name, module in (("BCQ", "bcq"), ("DDPG", "ddpg")):
        for lr in range(1, 7):
            changes = {"algo._target_": f"bcq_exp.algorithm.{module}.{name}", "critic_optim.lr": lr}
            make_run(tmp_path / f"{name}-{lr}", [lr + 2.5 * (name == "BCQ")], changes=changes)
    groups = figures.Groups(ComparedRuns(load_runs(tmp_path)))
    best = groups.all[: summary.BEST_FEW]
    (axes,) = figures.profiles(groups).axes
    assert [line.get_label().removesuffix(" †") for line in axes.lines] == best
    own = of_algorithms(["bcq", "ddpg"])
    for line in axes.lines:
        algorithm = "bcq" if "BCQ" in line.get_label() else "ddpg"
        assert line.get_color() in {mixed(own[algorithm], share) for share in SHADES}
    assert len({groups.styles[group] for group in best}) == len(best)
    (axes,) = figures.improvement(groups).axes
    assert len(axes.get_yticklabels()) == len(best)
    rows, *_ = figures.aggregates(groups).axes
    assert len(rows.get_yticklabels()) == 12


def test_an_algorithm_has_the_same_colour_with_any_others():
    assert of_algorithms(["td3_bc"])["td3_bc"] == of_algorithms(["mine.X", "TD3BC"])["TD3BC"]
    full = ["bcq_exp.algorithm.bcq.BCQ", "mine.BCQ"]
    ours, theirs = of_algorithms(full).values()
    assert ours == PALETTE[0] != theirs
    ours = ["bcq", "bc", "vae_bc", "ddpg", "td3_bc", "dqn", "iql", "cql"]
    assert len(set(of_algorithms(ours).values())) == len(ours)
    many = [str(i) for i in range(12)]
    assert len(set(styles(many, {}).values())) == 12
    assert len(set(styles(many, dict.fromkeys(many, "BCQ")).values())) == 12


def test_a_profile_of_equal_scores_falls_from_all_to_none(tmp_path):
    make_run(tmp_path / "a", [3.0])
    (axes,) = figures.profiles(figures.Groups(ComparedRuns(load_runs(tmp_path)))).axes
    assert list(axes.lines[0].get_ydata()) == [1.0, 0.0]
