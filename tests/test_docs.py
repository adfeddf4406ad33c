"""README and docs/: commands are accepted, errors are as shown, Python runs, links resolve."""

import ast
import importlib.util
import logging
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bcq_exp import signals
from bcq_exp.__main__ import COMMANDS
from bcq_exp.cli import arguments, entry
from bcq_exp.cli.callback import CheckCallback

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OTHER_TOOLS = ("source", "wandb", "eval")  # not ours to try
NAMED = rf"(?:python -m bcq_exp|bcq_exp (?:{'|'.join(COMMANDS)})) [^`]+"
IN_A_SENTENCE = rf"`({NAMED}|python -m tests[^`A-Z]+)`"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


class Command(NamedTuple):
    """A command of a page, and the output shown below it."""

    page: Path
    words: tuple[str, ...]
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


def commands() -> Iterator[Command]:
    """Every command of a block, and every one within a sentence, once."""
    seen = set()
    for page in PAGES:
        lines = [line for text in blocks(page, "sh") for line in _joined(text).splitlines()]
        lines += re.findall(IN_A_SENTENCE, page.read_text())
        words = {_words(line) for line in lines} - {(), *seen}
        seen |= words
        yield from (Command(page, each) for each in sorted(words))
        for text in blocks(page, "console"):
            for shown in re.split(r"^\$ ", _joined(text), flags=re.MULTILINE)[1:]:
                line, _, output = shown.partition("\n")
                yield Command(page, _words(line), output)


def _joined(text: str) -> str:
    return re.sub(r"\\\n\s*", "", text)


def _words(line: str) -> tuple[str, ...]:
    return tuple(shlex.split(line, comments=True))


class Parsed(BaseException):
    """The arguments were understood: the command goes no further."""


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands read, compose and check what they are given, and do nothing."""

    def no_further(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def parsed(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            raise Parsed

        monkeypatch.setattr(owner, name, parsed)

    no_further(arguments.Parser, "parse_args")
    no_further(CheckCallback, "on_run_start")
    no_further(CheckCallback, "on_multirun_start")
    no_further(entry, "check")  # of commands without the callback
    monkeypatch.setattr(signals.signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder with the files that the command's page shows under a name, tests/ and examples/."""
    for folder in ("tests", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for text in blocks(request.param.page, "yaml", "python"):
        if named := re.match(r"(?:# @.*\n)?# ([\w/]+\.(yaml|py))\n", text):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("here", list(commands()), ids=str, indirect=True)
def test_a_command_is_accepted(here, dry, monkeypatch, capsys, request) -> None:
    shown = request.node.callspec.params["here"]
    tool, *words = shown.words
    if tool == "make":
        assert set(words) <= set(TARGETS)
    elif tool == "pip":
        extras = re.findall(r"bcq_exp\[([\w,]+)\]", " ".join(words))
        assert {name for found in extras for name in found.split(",")} <= set(EXTRAS)
    elif tool == "python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file()
    elif tool == "python" and not words[1].startswith("bcq_exp"):
        assert importlib.util.find_spec(words[1]) is not None
    elif tool in ("python", "bcq_exp"):
        module, rest = ("bcq_exp", words) if tool == "bcq_exp" else (words[1], words[2:])
        status = _try(module, rest, monkeypatch)
        captured = capsys.readouterr()
        assert captured.err == shown.output, captured.err
        assert status == (2 if shown.output else 0)
    else:
        assert tool in OTHER_TOOLS


def _try(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a command that goes no further than its checks."""
    name = {"bcq_exp": "bcq_exp.__main__", "bcq_exp.paper": "bcq_exp.paper.__main__"}
    monkeypatch.setattr(sys, "argv", [module, *words])
    try:
        importlib.import_module(name.get(module, module)).main()
    except Parsed:
        return 0
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_runs(page, trained, tmp_path, monkeypatch) -> None:
    for name in ("multirun/quickstart", "multirun/first/seed=0"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    for text in blocks(page, "python"):
        exec(compile(text, f"<{page.name}>", "exec"), {"__name__": "shown"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text()):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("https:"):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> list[str]:
    """Of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md", "CONTRIBUTING.md"])
def test_names_of_code_exist(page) -> None:
    files = [path for root in ("bcq_exp", "conf", "tests") for path in (ROOT / root).rglob("*.*")]
    texts = (path.read_text() for path in files if path.suffix in (".py", ".yaml"))
    known = {*re.findall(r"\w+", "".join(texts)), "docs", "github", "md"}
    named = re.findall(r"`([\w.]*)(?:\(\w*\))?`", (ROOT / page).read_text())
    assert len(named) > 5
    assert not {part for name in named for part in name.split(".")} - known - {""}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_messages_of_the_troubleshooting_page_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    entries = re.findall(r"^- (`[^`]+`)(, `[^`]+`)*:", page, re.MULTILINE)
    spans = [span for entry in entries for each in entry for span in re.findall(r"`(.+)`", each)]
    assert spans
    parts = [part.strip(" :") for span in spans for part in re.split(r"\.\.\.|[A-Z]{3,}", span)]
    said = "\n".join(messages())
    assert [part for part in parts if part.removeprefix("error: ") not in said] == []


def messages() -> Iterator[str]:
    """Every text in the package, without what is filled in."""
    for path in (ROOT / "bcq_exp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
