"""The page in a real browser: it draws, regroups, sorts, filters and asks no network."""

import base64
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bcq_exp.analysis import load_runs, statistics, summary
from bcq_exp.analysis.colours import of_algorithms
from bcq_exp.analysis.report import page_data, write_report
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.analysis.tables import aggregate_csv, digits
from bcq_exp.training.record import RunRecord
from tests.analysis.made_up import make_grid, make_run
from tests.forked import forked

FEW = ("actor_loss", "q1_mean")  # statistics, each a plot: for tests that are not about them


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_grid(folder / "multirun" / "s", scored=True)
    make_run(
        folder / "multirun" / "s" / "broken<b>",
        [],
        seed=9,
        status="failed",
        failure="a loss is not finite at step 7 </script> <!--<script>",
        changes={"trainer.num_steps": 2000},  # as the others have
    )
    done = forked("multirun/s", module="bcq_exp.compare", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "lmbda=1, tau=0.01" in done.stdout
    assert "error: failed: broken" in done.stdout
    return folder / "multirun" / "s" / "report" / "index.html"


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """The report of 12 groups of two runs: BCQ and DDPG with six learning rates each."""
    folder = tmp_path_factory.mktemp("twelve")
    targets = {"BCQ": "bcq_exp.algorithm.bcq.BCQ", "DDPG": "bcq_exp.algorithm.ddpg.DDPG"}
    rng = np.random.default_rng(0)
    for algorithm, target in targets.items():
        for lr in range(1, 7):
            for seed in range(2):
                make_run(
                    folder / "s" / f"algo={algorithm},critic_optim.lr={lr},seed={seed}",
                    [lr * 1.0, lr + 20.0 * (algorithm == "BCQ") + rng.integers(4)],
                    seed=seed,
                    changes={"algo._target_": target, "critic_optim.lr": lr},
                    statistics=FEW,
                )
    write_report(ComparedRuns(load_runs(folder / "s")), folder / "index.html")
    return folder


@pytest.fixture(scope="module")
def shown(kept_open, report):
    """The page of that report; a test leaves it as it was."""
    return kept_open(report, webgl=True)


@pytest.fixture(scope="module")
def shown_twelve(kept_open, twelve):
    """The page of that report; a test leaves it as it was."""
    return kept_open(twelve / "index.html")


def legends(page, plot):
    return page.eval_on_selector_all(
        f"#{plot}-legend .name", "nodes => nodes.map(n => n.textContent)"
    )


def drawn(page, plot):
    """The names and line colours of a plot's lines."""
    return page.evaluate(
        f"document.getElementById('{plot}').data.filter(t => t.name && t.line.width > 2 - 1e-9)"
        ".map(t => [t.name, t.line.color])"
    )


def interval_of(*scores):
    """As tables print the interval of the runs' mean."""
    _, low, high = statistics.estimate({"t": np.array(scores)}, statistics.mean)
    return f"[{digits(low)}, {digits(high)}]"


def test_every_section_is_drawn(shown):
    page = shown
    for plot in ("learning-0", "intervals", "improvement", "profiles", "importance", "heat"):
        assert page.locator(f"#{plot} svg.main-svg").count() > 0, plot
    assert page.locator("#training .js-plotly-plot").count() == 11
    assert page.locator("#marginals .js-plotly-plot").count() == 2
    assert page.locator("#parallel .parcoords").count() > 0
    assert page.locator("#selection").is_hidden()  # bcq_exp.select has not been asked
    assert "13 runs (12 completed, 1 failed) in 5 groups" in page.inner_text("#headline")
    assert "a loss is not finite at step 7" in page.inner_text("#notes")
    assert "hash of made/up-v0" in page.inner_text("#versions")
    assert f"12.0 {interval_of(11.0, 12.0, 13.0)}" in page.inner_text("#aggregate-table")
    titles = page.eval_on_selector_all(
        "button[data-title]", "all => all.map(b => b.dataset.title)"
    )  # of the plots: none uploads
    assert set(titles) == {"save as SVG", "save as PNG", "Zoom", "Pan", "Reset axes"}
    policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert policy.startswith("default-src 'none';") and "http" not in policy


def test_two_keys_are_shown_where_two_differ(opened, report, tmp_path):
    assert opened(report).is_visible("#two-keys")
    for lmbda in (0.5, 1.0):
        make_run(tmp_path / "s" / f"lmbda={lmbda}", [1.0], changes={"algo.lmbda": lmbda})
    write_report(ComparedRuns(load_runs(tmp_path / "s")), tmp_path / "index.html")
    page = opened(tmp_path / "index.html")
    assert page.is_hidden("#two-keys") and page.is_visible("#importance")


def test_groups_and_axes_change(opened, report):
    page = opened(report)
    assert page.input_value("#colour") == "algo.lmbda"  # which explains most
    assert legends(page, "learning") == ["lmbda=0.5", "lmbda=1", "behaviour policy"]
    page.select_option("#colour", "all keys")
    assert "lmbda=1, tau=0.01 †" in legends(page, "learning")  # of three runs
    traces = page.evaluate(
        "document.getElementById('learning-0').data.map(t => [t.name, t.x, t.y])"
    )
    last = [ys[-1] for name, xs, ys in traces if name == "lmbda=1, tau=0.01" and len(ys) == 2]
    assert last == [pytest.approx(12.0)]  # the mean of the runs
    page.select_option("#colour", "algo.tau")
    assert legends(page, "learning") == ["tau=0.001", "tau=0.01", "behaviour policy"]
    page.select_option("#facet", "algo.lmbda")
    assert page.locator("#learning .js-plotly-plot").count() == 2
    page.select_option("#x", "wall_time")
    assert "wall time (s)" in page.inner_text("#learning-0")
    page.select_option("#y", "return_mean")
    page.select_option("#facet", "none")
    drawn = page.evaluate("document.getElementById('learning-0').data.filter(t => t.fill).length")
    assert drawn == 2  # a band a group
    page.uncheck("#single")
    names = page.evaluate("document.getElementById('learning-0').data.map(t => t.name)")
    assert not any("seed=" in str(name) for name in names)
    assert "behaviour policy" in names
    page.locator("#learning-legend button").first.click()
    names = page.evaluate("document.getElementById('learning-0').data.map(t => t.name)")
    assert "tau=0.001" not in names and "tau=0.01" in names


def test_values_that_are_close_are_shown_exactly(opened, tmp_path):
    for lr in (0.0010001, 0.0010002):
        for tau in (0.01, 0.1):
            changes = {"critic_optim.lr": lr, "algo.tau": tau}
            place = tmp_path / "s" / f"{lr}-{tau}"
            make_run(place, [10.0, 20.0], changes=changes, statistics=FEW)
    write_report(ComparedRuns(load_runs(tmp_path / "s")), tmp_path / "report" / "index.html")
    page = opened(tmp_path / "report" / "index.html")
    page.select_option("#colour", "critic_optim.lr")
    assert legends(page, "learning")[:2] == ["lr=0.0010001 †", "lr=0.0010002 †"]
    page.select_option("#heat-x", "critic_optim.lr")
    page.select_option("#heat-y", "algo.tau")
    axes = page.evaluate("['xaxis', 'yaxis'].map(a => $('heat').layout[a].ticktext)")
    assert axes == [["0.0010001", "0.0010002"], ["0.01", "0.1"]]
    page.fill("#filter", "critic_optim.lr=0.0010002")
    rows = page.locator("#run-table tbody tr:visible")
    assert rows.count() == 2
    assert all("0.0010002" in row.inner_text() for row in rows.all())


def test_quarters_that_agree_in_three_digits_are_four_groups(opened, tmp_path):
    for k in range(12):  # more than there are colours
        changes = {"algo.lmbda": 0.9 + k / 10_000, "algo.tau": k % 2}
        make_run(tmp_path / "s" / f"{k}", [float(k)] * 2, changes=changes, statistics=FEW)
    write_report(ComparedRuns(load_runs(tmp_path / "s")), tmp_path / "report" / "index.html")
    page = opened(tmp_path / "report" / "index.html")
    page.select_option("#colour", "algo.lmbda")
    found = legends(page, "learning")[:4]
    assert found[0] == "lmbda=0.9 – 0.900275 †"
    assert len({*found}) == 4 and all("lmbda=0.9" in text for text in found)
    page.select_option("#heat-x", "algo.lmbda")
    page.select_option("#heat-y", "algo.tau")
    assert page.evaluate("$('heat').layout.xaxis.ticktext[0]") == "0.9 – 0.900275"
    assert page.evaluate("$('heat').data[0].z")[0] == [1.0, 4.0, 7.0, 10.0]  # of 0 2, 4, 6 8, 10


def test_values_of_keys_are_those_of_labels_in_the_order_of_numbers(opened, tmp_path):
    for seed in (1, 10):
        for lmbda in (10, 1.25, 0.9999, None):
            own = {"algo._target_": "mine.Own"} if lmbda is None else {"algo.lr": lmbda}
            place = tmp_path / "s" / f"algo.lr={lmbda},seed={seed}"
            make_run(place, [10.0, 20.0], seed=seed, changes=own, statistics=FEW)
    found = ComparedRuns(load_runs(tmp_path / "s"))
    write_report(found, tmp_path / "index.html")
    page = opened(tmp_path / "index.html")
    page.select_option("#colour", "algo.lr")
    shown = [text.removesuffix(" †") for text in legends(page, "learning")[:4]]
    assert shown == ["lr=–", "lr=0.9999", "lr=1.25", "lr=10"]
    with page.expect_download() as table:
        page.click("[data-csv=aggregate-table]")
    saved, expected = pd.read_csv(table.value.path()), pd.read_csv(StringIO(aggregate_csv(found)))
    assert set(saved["algo.lr"].dropna()) == set(expected["algo.lr"].dropna())
    for text, count in (("seed=1", 4), ("lr=1.25", 2), ("dataset=made/up-v0 algo=own", 2)):
        page.fill("#filter", text)
        assert page.inner_text("#shown") == f"{count} of 8 runs", text


def test_hyperparameters_are_written_with_four_digits(opened, tmp_path):
    for lmbda in (0.9999, 1.25):
        make_run(tmp_path / str(lmbda), [1.0], changes={"algo.lmbda": lmbda}, statistics=FEW)
    write_report(ComparedRuns(load_runs(tmp_path)), tmp_path / "index.html")
    page = opened(tmp_path / "index.html")
    page.select_option("#colour", "algo.lmbda")
    assert legends(page, "learning")[:2] == ["lmbda=0.9999 †", "lmbda=1.25 †"]
    for table in ("aggregate", "run"):
        assert "\t1.25\t" in page.inner_text(f"#{table}-table")


def test_a_watched_page_keeps_what_the_reader_chose(opened, tmp_path):
    make_grid(tmp_path / "s", num_rows=2, statistics=FEW)
    path = tmp_path / "index.html"
    write_report(ComparedRuns(load_runs(tmp_path / "s")), path, refresh=1000)
    page = opened(path)
    page.select_option("#colour", "seed")
    page.fill("#filter", "seed=1")
    page.locator("#aggregate-table input").first.uncheck()
    page.evaluate("scrollTo(0, 900)")
    page.reload()
    page.wait_for_selector("body[data-ready=true]")
    assert page.input_value("#colour") == "seed"
    assert page.inner_text("#shown") == "4 of 12 runs"
    assert page.inner_text("#drawn").startswith("3 of 4")
    assert page.evaluate("scrollY") == 900


def test_the_best_evaluation_counts_everywhere_where_it_is_asked_for(opened, tmp_path):
    for lmbda, returns in ((0.0, [90.0, 10.0]), (1.0, [20.0, 30.0])):
        for seed in range(3):
            make_run(
                tmp_path / "s" / f"{lmbda}-{seed}",
                [value + seed for value in returns],
                seed=seed,
                changes={"algo.lmbda": lmbda},
                statistics=FEW,
            )
    for which, expected in (("last", [11.0, 31.0]), ("best", [91.0, 31.0])):
        found = ComparedRuns(load_runs(tmp_path / "s"), which)
        table = page_data(found, tmp_path)["marginals"]["algo.lmbda"]
        assert dict(zip(table["value"], table["mean"], strict=True)) == {
            "0": expected[0],
            "1": expected[1],
        }
    write_report(found, tmp_path / "index.html")
    page = opened(tmp_path / "index.html")
    assert "By each run's best evaluation." in page.inner_text("#hyperparameters")
    assert "The best evaluation's return" in page.inner_text("#aggregates-how")
    assert f"91.0 {interval_of(90.0, 91.0, 92.0)}" in page.inner_text("#aggregate-table")
    assert page.input_value("#which") == "best"
    beats = "$('improvement').data[0].z"
    labels = "$('improvement').layout.yaxis.ticktext"
    assert page.evaluate(labels) == ["lmbda=0 †  1", "lmbda=1 †  2"]
    assert page.evaluate(beats) == [[None, 1.0], [0.0, None]]
    page.select_option("#which", "last")
    assert page.evaluate(labels) == ["lmbda=1 †  1", "lmbda=0 †  2"]
    assert f"11.0 {interval_of(10.0, 11.0, 12.0)}" in page.inner_text("#aggregate-table")


def test_curves_of_many_rows_are_the_means_of_equal_parts(tmp_path):
    column = np.where(np.arange(250) % 50 < 10, np.nan, np.arange(250.0))
    make_run(tmp_path / "s" / "a", [1.0], num_rows=250, training={"q1_mean": column})
    curve = page_data(ComparedRuns(load_runs(tmp_path / "s")), tmp_path)["training"][0]["q1_mean"]
    shown = np.frombuffer(base64.b64decode(curve), "<f4")
    expected = pd.Series(column).groupby(np.arange(250) * 100 // 250).mean()
    np.testing.assert_allclose(shown, expected, rtol=1e-6)
    assert np.isnan(shown[:4]).all()


def test_the_table_sorts_filters_and_links(shown):
    page = shown
    rows = page.locator("#run-table tbody tr")
    assert rows.count() == 13
    header = page.locator("#run-table th", has_text="last return")
    header.click()
    returns = page.eval_on_selector_all(
        "#run-table tbody tr", "trs => trs.map(t => t.cells[6].textContent)"
    )
    numbers = [float(x) for x in returns if x]
    assert numbers == sorted(numbers)
    assert len(numbers) == 12
    assert returns[-1] == ""  # the failed run, last whichever way
    header.press("Enter")
    returns = page.eval_on_selector_all(
        "#run-table tbody tr", "trs => trs.map(t => t.cells[6].textContent)"
    )
    assert float(returns[0]) == max(numbers)
    page.fill("#filter", "lmbda=0.5 seed=2")
    assert page.locator("#run-table tbody tr:visible").count() == 2
    assert page.inner_text("#shown") == "2 of 13 runs"
    page.fill("#filter", "failed")
    failed = page.locator("#run-table tbody tr:visible")
    assert failed.count() == 1
    assert failed.locator("a").inner_text() == "broken<b>"
    page.fill("#filter", "")
    link = page.locator("#run-table a").first.get_attribute("href")
    assert link.startswith("./../algo.lmbda=")
    copy, asked = page.locator("#run-table .copy").first, []
    command = copy.get_attribute("title")
    assert command.startswith("bcq_exp train ")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { configurable: true })")
    page.once("dialog", lambda dialog: (asked.append(dialog.default_value), dialog.accept()))
    copy.click()  # as on a page that is served by http: it has no clipboard
    assert asked == [command] and copy.inner_text() == "copy"
    page.evaluate("delete navigator.clipboard")


def test_figures_and_tables_are_saved(shown, report):
    page = shown
    with page.expect_download() as table:
        page.click("[data-csv=aggregate-table]")
    saved = pd.read_csv(table.value.path())
    expected = pd.read_csv(StringIO(aggregate_csv(ComparedRuns(load_runs(report.parents[1])))))
    pd.testing.assert_frame_equal(saved, expected, rtol=1e-5, check_dtype=False)
    with page.expect_download() as table:
        page.click("[data-csv=run-table]")
    runs = pd.read_csv(table.value.path())
    assert runs["run"].str.contains("algo.lmbda=0.5,algo.tau=0.001,seed=2").sum() == 1
    assert runs["last_return"].dropna().between(5, 13.1).all()
    for plot in ("importance", "parallel"):
        for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
            page.hover(f"#{plot}")
            with page.expect_download() as figure:
                page.locator(f"#{plot} button[data-title='save as {kind}']").click()
            content = Path(figure.value.path()).read_bytes()
            assert content.startswith(begins) and len(content) > 5_000


def test_of_many_groups_the_best_few_or_the_chosen_are_drawn(shown_twelve, twelve):
    page = shown_twelve
    assert page.inner_text("#drawn") == "8 of 12 groups are drawn; tick others in the table"
    assert len(drawn(page, "profiles")) == 8
    page.click("#choose-none")
    assert page.inner_text("#improvement") == "Two groups are needed."
    assert "over 1 data set (" in page.inner_text("#aggregates-how")
    boxes = page.locator("#aggregate-table input")
    for place in (0, 5, 11):
        boxes.nth(place).check()
    ranks = [name.split()[0] for name in legends(page, "profiles")]
    assert ranks == ["1", "6", "12"]  # also where long names are cut
    runs = load_runs(twelve / "s")
    order = [a.group for a in ComparedRuns(runs).aggregates]
    chosen = [order[place] for place in (0, 5, 11)]
    assert [name.removesuffix(" †") for name, _ in drawn(page, "profiles")] == chosen
    expected = ComparedRuns(runs).improvements(chosen)
    texts = [
        [p and f"<br>{p.value:.2f} [{p.low:.2f}, {p.high:.2f}]" for p in row] for row in expected
    ]
    shown = page.evaluate("$('improvement').data[0].hovertext")
    for row, cells in zip(shown, texts, strict=True):
        assert all(
            text is None or cell.endswith(text) for text, cell in zip(cells, row, strict=True)
        )
    values = ComparedRuns(runs).values
    traces = page.evaluate("$('profiles').data.filter(t => t.name)")
    for group, trace in zip(chosen, traces, strict=True):
        scores = {"": values[runs.groups() == group].to_numpy()}
        share, _, _ = statistics.performance_profile(scores, np.array(trace["x"]))
        assert trace["y"] == pytest.approx(list(share))
    page.select_option("#colour", "all keys")
    assert legends(page, "learning")[-2:] == ["9 other groups", "behaviour policy"]
    page.select_option("#colour", "algo")
    page.click("#choose-best")
    assert len(drawn(page, "profiles")) == 8


def test_an_algorithm_has_one_colour(shown_twelve):
    page = shown_twelve
    colours = of_algorithms(["bcq", "ddpg"])  # as the paper's figures name them
    expected = {("algo=BCQ", colours["bcq"]), ("algo=DDPG", colours["ddpg"])}
    assert page.input_value("#colour") == "algo"
    assert set(map(tuple, drawn(page, "learning-0"))) == expected
    assert set(map(tuple, drawn(page, "training-q1_mean"))) == expected
    marginal = page.evaluate("$('marginal-algo').data[0]")
    assert dict(zip(marginal["text"], marginal["marker"]["line"]["color"], strict=True)) == {
        "BCQ": colours["bcq"],
        "DDPG": colours["ddpg"],
    }
    page.click("#choose-none")
    assert "over 1 data set (" in page.inner_text("#aggregates-how")
    boxes = page.locator("#aggregate-table input")
    for place in (0, 5, 11):
        boxes.nth(place).check()
    rows = dict(
        page.evaluate(
            "(d => d.text.map((t, i) => [t, d.marker.line.color[i]]))($('intervals').data[0])"
        )
    )
    for name, colour in drawn(page, "profiles"):
        assert colour == rows[name] == colours["bcq" if "BCQ" in name else "ddpg"]
    page.click("#choose-best")


def test_facets_share_their_y_axis_and_run_names_repeat_no_column(shown_twelve):
    page = shown_twelve
    ranges = "[...document.querySelectorAll('#learning > div')].map(d => d.layout.yaxis.range)"
    page.select_option("#facet", "algo")
    first, second = page.evaluate(ranges)
    assert first == second
    assert first[0] < 1 and first[1] > 26  # all means lie inside
    page.uncheck("#shared")
    first, second = page.evaluate(ranges)
    assert first != second
    page.check("#shared")
    page.select_option("#facet", "none")
    link = page.locator("#run-table a").first
    assert link.inner_text() == "#1"
    assert "algo=BCQ,critic_optim.lr=1,seed=0" in link.get_attribute("href")


def test_it_follows_the_scheme_and_nothing_sticks_out(opened, report, shown):
    dark = opened(report, color_scheme="dark", viewport={"width": 1920, "height": 900})
    for page, scheme, width in ((shown, "light", 1280), (dark, "dark", 1920)):
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme") != scheme
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme


def test_single_runs_one_seed_and_no_evaluation_are_drawn(opened, tmp_path):
    make_run(tmp_path / "a", [1.0, 2.0], statistics=FEW)
    write_report(ComparedRuns(load_runs(tmp_path / "a")), tmp_path / "one" / "index.html")
    page = opened(tmp_path / "one" / "index.html")
    assert page.locator("#learning-0 .scatterlayer path").count() > 0
    assert "too few runs for an interval" in page.inner_text("#notes")
    make_run(tmp_path / "b", [], num_rows=1, statistics=FEW)
    write_report(ComparedRuns(load_runs(tmp_path / "b")), tmp_path / "none" / "index.html")
    page = opened(tmp_path / "none" / "index.html")
    assert "No run has an evaluation yet" in page.inner_text("#aggregates")


@pytest.mark.slow
def test_many_runs_of_a_thousand_rows_stay_usable(opened, tmp_path):
    for lmbda in range(41):
        for seed in range(5):
            make_run(
                tmp_path / "s" / f"{lmbda}-{seed}",
                [float(lmbda + seed), float(lmbda + seed)],
                seed=seed,
                changes={"algo.lmbda": lmbda / 41},
                num_rows=2,
            )
    lines = (tmp_path / "s" / "0-0" / "train.csv").read_text().splitlines()
    timing = (tmp_path / "s" / "0-0" / "timing.csv").read_text().splitlines()
    for folder in (tmp_path / "s").iterdir():
        for name, (head, first, *_) in (("train", lines), ("timing", timing)):
            rest = first.partition(",")[2]
            rows = [f"{step},{rest}" for step in range(2, 2002, 2)]
            (folder / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
        record = RunRecord(folder)
        record.write_summary(record.summary())
    start = time.perf_counter()
    runs = load_runs(tmp_path / "s")
    path = tmp_path / "report" / "index.html"
    write_report(ComparedRuns(runs), path)
    assert time.perf_counter() - start < 20
    assert len(runs.training) == 205_000
    assert path.stat().st_size < 15 * 2**20
    page = opened(path)
    assert page.locator("#run-table tbody tr").count() == 205
    assert legends(page, "learning")[0] == "lmbda=0 – 0.244"  # quarters of 41 values
    assert len(legends(page, "learning")) == 4 + 1
    page.select_option("#colour", "all keys")
    curves = "document.getElementById('learning-0').data.length"
    groups = page.evaluate(curves)
    low = page.evaluate("document.getElementById('learning-0').data[1].y")
    assert low == [pytest.approx(42 - statistics.margin(4) * (2.5 / 5) ** 0.5)] * 2  # of 40 to 44
    page.check("#single")
    assert "at most 200" in page.inner_text("#single-of")  # which are more than can be drawn
    assert page.evaluate(curves) == groups
    page.fill("#filter", "seed=3")
    page.locator("#filter").dispatch_event("change")
    assert page.evaluate(curves) == groups + summary.BEST_FEW


def test_watching_ends_with_the_runs(tmp_path):
    make_run(tmp_path / "s" / "a", [1.0])
    done = forked("s", "--watch", "0.1", module="bcq_exp.compare", cwd=tmp_path)
    assert done.returncode == 0
    assert (
        'http-equiv="refresh"' not in (tmp_path / "s" / "report" / "index.html").read_text()[:2000]
    )


def test_two_comparisons_do_not_overwrite_each_other(tmp_path):
    make_run(tmp_path / "s" / "a", [1.0])
    make_run(tmp_path / "t" / "a", [2.0])
    for places in (["s"], ["t"], ["s", "t"]):
        done = forked(*places, module="bcq_exp.compare", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    pages = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("index.html")}
    assert pages == {"s/report/index.html", "t/report/index.html", "report/index.html"}
    done = forked("s", "--output", "/dev/null", module="bcq_exp.compare", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: output=/dev/null: ")


def test_the_commands_table_and_mistakes(tmp_path):
    make_grid(tmp_path / "s")
    done = forked("s", "--format", "md", module="bcq_exp.compare", cwd=tmp_path)
    assert done.stdout.startswith("| lmbda | tau | runs | made/up-v0 (return) |")
    done = forked("nothing", module="bcq_exp.compare", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no runs found" in done.stderr


def test_the_commands_behaviours_are_those_of_their_groups(tmp_path):
    make_grid(tmp_path / "s")
    done = forked("s", module="bcq_exp.compare", cwd=tmp_path)
    assert done.stdout.count("behaviour's return") == 1
    assert "behaviour's return on made/up-v0: 5.00\n" in done.stdout
    for k, share in enumerate((None, 0.5)):
        changes = {"dataset.holdout": share}
        make_run(tmp_path / "t" / str(k), [1.0], behaviour_return=5.0 + k, changes=changes)
    done = forked("t", module="bcq_exp.compare", cwd=tmp_path)
    assert "behaviour's return on made/up-v0 (holdout=null): 5.00\n" in done.stdout
    assert "behaviour's return on made/up-v0 (holdout=0.5): 6.00\n" in done.stdout


def test_the_mean_of_one_run_has_no_deviation(tmp_path):
    for k in range(2):
        make_run(tmp_path / "s" / str(k), [4.0 + k], changes={"algo.lmbda": k})
    done = forked("s", module="bcq_exp.compare", cwd=tmp_path)
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("│ lmbda=1"))
    assert [cell.strip() for cell in row.split("│")] == [
        "",
        "lmbda=1",
        "1",
        "5.00",
        "5.00",
        "5.00",
        "",
    ]


EVIL = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "/*js*/ /*data*/ <!--lead--> <!--<script>",
    "\" onmouseover='alert(3)' %{y} alert(4) `",
    "<a href='javascript:alert(5)'>b</a>",
    "__proto__",
)


def test_every_text_is_data(opened, tmp_path, monkeypatch):
    """Names, ids, reasons, keys, values, notes, versions, columns and what select found."""
    monkeypatch.chdir(tmp_path)
    for number, evil in enumerate(EVIL):
        make_run(
            tmp_path / "s" / evil.replace("/", "\u2215"),
            [] if number == 2 else [1.0, 2.0 + number],
            dataset=evil,
            status="failed" if number % 2 else "completed",
            failure=evil,
            changes={"algo.lmbda": evil, "algo.tau": evil[::-1], "actor.phi": 0.1 * number},
            statistics=(),
            training={evil.replace(",", ";").replace('"', "'"): 1.0},
            command=evil,
            git_commit=evil,
            versions={evil: evil},
            dataset_facts={"content_hash": evil},
        )
    config = {f"algo.{evil.replace('.', ' ')}": number for number, evil in enumerate(EVIL)}
    make_run(tmp_path / "s" / "javascript:alert(6)", [3.0], changes=config, statistics=())
    policy = dict.fromkeys(("fqe", "fqe_low", "fqe_high", "critic_value", "td_error"), 1.0)
    known = {"step": 1, "return_mean": 2.0, "discounted_return": 3.0}
    selection = {
        "settings": {"gamma": 0.9}, "notes": list(EVIL), "quality": {}, "budget": {},
        "behaviour": {name: policy[name] for name in ("fqe", "fqe_high")} | known,
        "policies": [{"run": evil, "folder": evil, **policy, **known} for evil in EVIL],
    }  # fmt: skip
    runs = load_runs(tmp_path / "s")
    page = tmp_path / "s" / "index.html"  # links start with names
    write_report(ComparedRuns(runs), page, selection=selection)
    page = opened(tmp_path / "s" / "index.html")
    page.on("dialog", lambda dialog: pytest.fail(f"ran {dialog.message}"))
    assert page.evaluate("DATA.runs.length") == 7
    links = page.eval_on_selector_all(
        "a", "all => all.map(a => a.protocol + a.getAttribute('href'))"
    )
    assert not [link for link in links if link.startswith("javascript")]
    assert "file:./javascript%3Aalert%286%29" in "".join(links)
    names = page.eval_on_selector_all(
        "#run-table tbody tr", "all => all.map(t => t.cells[0].innerText)"
    )
    assert set(names) == set(runs.runs["name"])
    assert page.locator("#run-table .status-failed").count() == 3
    for evil in EVIL:
        assert evil in page.inner_text("#versions")
        assert evil in page.inner_text("#selection-notes")
    for choice in page.evaluate("[...document.getElementById('colour').options].map(o => o.value)"):
        page.select_option("#colour", choice)
    page.hover("#learning-0")
    page.select_option("#colour", "dataset")
    page.select_option("#facet", "none")
    assert {f"dataset={evil}" for evil in EVIL} - {f"dataset={EVIL[2]}"} <= set(
        page.evaluate("groupsBy('dataset').keys().toArray()")
    )
    assert page.locator("img, [onerror], [onmouseover]").count() == 0
    assert page.locator("script").count() == 3


def test_a_status_of_no_known_word_is_damage_for_page_and_status(tmp_path):
    make_run(tmp_path / "s" / "a", [1.0])
    make_run(tmp_path / "s" / "b", [1.0], status="<script>alert(1)</script>")
    (tmp_path / "s" / "sweep.json").write_text('{"runs": [], "commands": []}')
    notes = "".join(load_runs(tmp_path / "s").notes)
    assert "summary.json is damaged (ValueError: its status is '<script>" in notes
    done = forked("s", module="bcq_exp.status", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 done, 1 damaged" in done.stdout
