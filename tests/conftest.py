"""Data sets and one trained run that all tests share, made once for all workers; a browser."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# what takes seconds to import is imported where it is used: xdist's controller reads this too


def pytest_configure() -> None:
    """Load Hydra's plugins, which redefines its sweeper, before test modules import ours."""
    from hydra.core.plugins import Plugins

    Plugins.instance()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one worker, which makes the fixtures of a module once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of this session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def surroundings(common: Path) -> None:
    """No test sees the user's own data sets, caches or W&B account."""
    import torch

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {
        "MINARI_DATASETS_PATH": str(common / "minari"),
        "XDG_CACHE_HOME": str(common / "cache"),
        "HOME": str(common),
        "NETRC": str(common / "netrc"),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """No command that a test runs in this process prints what later tests log."""
    loggers = [logging.getLogger(name) for name in (None, "bcq_exp")]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture(scope="session")
def trained(common: Path) -> Path:
    """The folder of a finished run of TINY, by the command line, mirrored to W&B offline."""
    from tests.commands import TINY
    from tests.forked import forked

    folder = common / "multirun" / "trained"
    with FileLock(common / "trained.lock"):
        if not folder.exists():
            options = ("logger=wandb", "logger.group=g", "logger.job_type=j", "logger.tags=[t,u]")
            done = forked(*TINY, *options, "name=trained", cwd=common)
            assert done.returncode == 0, done.stderr
            (common / "trained.out").write_text(done.stdout)
    return folder


@pytest.fixture
def short_episodes() -> Iterator[None]:
    """See :func:`tests.commands.episodes_cut_short`."""
    from tests.commands import episodes_cut_short

    with episodes_cut_short():
        yield


@pytest.fixture
def own_data(tmp_path: Path) -> dict[str, str]:
    """The environment of a command whose data sets are in the test's own folder."""
    return {**os.environ, "MINARI_DATASETS_PATH": str(tmp_path / "minari")}


@pytest.fixture(scope="module")
def browsers():
    """Chromium by whether it has WebGL, if it and playwright are here."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium; make browser installs it")
    with playwright.sync_playwright() as started:

        @cache
        def launched(webgl: bool):
            # without a GPU a page takes half as long again for it
            without = [] if webgl else ["--disable-gpu", "--disable-software-rasterizer"]
            args = ["--no-sandbox", *without]
            return started.chromium.launch(executable_path=path, args=args)

        yield launched


@pytest.fixture
def opened(browsers):
    """Opens a page, see :func:`_pages`."""
    with _pages(browsers) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def kept_open(browsers):
    """The same for a page that several tests look at, as opening one takes seconds."""
    with _pages(browsers) as open_page:
        yield open_page


@contextmanager
def _pages(browsers):
    """Opens pages; what they asked of the network and complained of must be nothing."""
    troubles, contexts = [], []

    def open_page(path, webgl=False, **options):
        context = browsers(webgl).new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        local = ("file:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(local) else troubles.append(r.url))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def pytest_terminal_summary(terminalreporter) -> None:
    """A table of the faults that were tried, if the campaign ran; its other tests count as one."""
    tried: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call" and "faults" in report.keywords:
                test = report.location[2].partition("[")[0].removeprefix("test_").replace("_", " ")
                what, count = dict(report.user_properties).get("tried", (test, 1))
                row = tried.setdefault(what, [0, 0])
                row[0] += count
                row[1] += count * (outcome == "passed")
    if tried:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'':72} {'tried':>7} {'survived':>9}")
        for what, (count, survived) in sorted(tried.items()):
            terminalreporter.write_line(f"{what:72} {count:7d} {survived:9d}")
