"""``bcq_exp COMMAND``: the list of commands, their syntax, and completion in a shell."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest

import bcq_exp
from bcq_exp import __main__ as program
from bcq_exp.cli.arguments import Parser, number, path, place
from bcq_exp.errors import UserError
from bcq_exp.ranges import COUNT
from tests.analysis.made_up import make_grid
from tests.forked import forked
from tests.terminal import LINES, resize

LIGHT = """
import sys
from bcq_exp.__main__ import main
sys.argv = ["bcq_exp", "--help"]
main()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_help_lists_every_command_without_heavy_imports(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    *shown, imported = done.stdout.splitlines()
    assert done.stderr == ""
    named = [line.partition("   ")[0].strip() for line in shown if line.startswith("  ")]
    assert named == list(program.COMMANDS)
    assert {"torch", "hydra", "omegaconf", "numpy", "pandas"}.isdisjoint(imported.split())


def test_every_module_that_is_a_command_is_listed():
    package = Path(bcq_exp.__file__).parent
    modules = [f"bcq_exp.{p.stem}" for p in package.glob("*.py") if "def main(" in p.read_text()]
    listed = {module.removesuffix(".__main__") for module, _ in program.COMMANDS.values()}
    assert listed == {*modules, "bcq_exp.paper"} - {"bcq_exp.__main__"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["comparre", "s"], "comparre: no such command; did you mean compare?"),
        (["wandb", "mirro"], "wandb mirro: no such command; did you mean wandb mirror?"),
        (["x"], "x: no such command; there are train, status, compare, select, evaluate, export,"),
        (["wandb"], "wandb: no such command; there are wandb mirror, wandb workspace, wandb sweep"),
    ],
)
def test_an_unknown_command_suggests_the_nearest(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bcq_exp", *words])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("words", "command", "rest"),
    [
        (["train", "algo=bc", "-m"], "bcq_exp.train", ["algo=bc", "-m"]),
        (["algo=bc"], "bcq_exp.train", ["algo=bc"]),
        (["-m", "train=1"], "bcq_exp.train", ["-m", "train=1"]),
        ([], "bcq_exp.train", []),
        (["compare", "train"], "bcq_exp.compare", ["train"]),
        (["wandb", "sweep", "create=true"], "bcq_exp.wandb_sweep", ["create=true"]),
        (["paper", "--help"], "bcq_exp.paper.__main__", ["--help"]),
    ],
)
def test_a_command_gets_the_words_after_its_name(words, command, rest, monkeypatch):
    def imported(module):
        assert (module, sys.argv[1:]) == (command, rest)
        raise InterruptedError

    monkeypatch.setattr(program.importlib, "import_module", imported)
    monkeypatch.setattr(sys, "argv", ["bcq_exp", *words])
    with pytest.raises(InterruptedError):
        program.main()


def test_custom_code_of_the_current_folder_is_importable(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/bin", *sys.path])
    monkeypatch.setattr(sys, "argv", ["bcq_exp", "--help"])
    program.main()
    assert sys.path[:2] == [str(tmp_path), "/bin"]


@pytest.fixture
def parser():
    parser = Parser("bcq_exp some", "Does something.")
    parser.add_argument("runs", nargs="+", type=place)
    parser.add_argument("--output", type=path)
    parser.add_argument("--which", choices=("last", "best"), default="last")
    parser.add_argument("--hidden-sizes", nargs="+", type=number(int, COUNT))
    parser.add_argument("--watch", nargs="?", type=number(int, COUNT), const=10)
    parser.add_argument("--once", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "b/x=1,y=2"], {"runs": ["a", "b/x=1,y=2"], "once": False, "watch": None}),
        (["which=best", "a"], {"runs": ["a"], "which": "best"}),
        (["a", "--which", "best", "output=x y"], {"which": "best", "output": Path("x y")}),
        (["hidden_sizes=[64,32]", "a", "once=true"], {"hidden_sizes": [64, 32], "once": True}),
        (["--hidden-sizes=8", "a", "once=false"], {"hidden_sizes": [8], "once": False}),
        (["a", "watch=true"], {"watch": 10}),
        (["a", "watch=3"], {"watch": 3}),
        (["a", "watch=false", "output=null"], {"watch": None, "output": None}),
        (["runs=a", "runs=b"], {"runs": ["a", "b"]}),
        (["*/seed=0"], {"runs": ["*/seed=0"]}),
    ],
)
def test_keys_and_folders_are_read(words, expected, parser):
    assert vars(parser.parse_args(words)).items() >= expected.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "which=first"], "which=first: must be one of last, best"),
        (["a", "watch=0"], "watch=0: must be an integer at least 1"),
        (["a", "hidden_sizes=[1,x]"], "hidden_sizes=x: must be an integer at least 1"),
        (["a", "once=1"], "once=1: must be true or false"),
        (["a", "output="], "output=: must be a path that is not empty"),
        (
            ["a", "size=1"],
            "size=1: no such key; there are hidden_sizes, once, output, watch, which",
        ),
        (["a", "--size=1"], "--size=1: no such option (see --help); keys are given as KEY=VALUE, "),
        (["a", "--output"], "output: expected one argument"),
    ],
)
def test_a_mistake_names_key_and_remedy(words, message, parser):
    with pytest.raises(UserError) as error:
        parser.parse_args(words)
    assert str(error.value).startswith(message)


def test_a_command_without_keys_has_none():
    parser = Parser("bcq_exp some", "Does something.")
    parser.add_argument("runs", nargs="+", type=place)
    with pytest.raises(UserError, match="nope=1: no such key; there are none"):
        parser.parse_args(["a", "nope=1"])


def test_help_shows_keys_as_they_are_typed(parser):
    shown = parser.format_help()
    assert shown.startswith("usage: bcq_exp some RUNS... [KEY=VALUE ...]\n")
    for key in ("which=last|best", "hidden_sizes=[SIZES,...]", "once=true", "watch=WATCH"):
        assert f"\n  {key}\n" in shown
    assert " --" not in shown.replace("--help", "")


def test_a_command_reads_its_folder_by_position(trained):
    done = forked("evaluate", "multirun/trained", "num_episodes=1", cwd=trained.parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "over 1 episode\n" in done.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bcq_exp ", {"train", "status", "compare", "wandb"}),
        ("bcq_exp st", {"status"}),
        ("bcq_exp wandb ", {"mirror", "workspace", "sweep"}),
        ("bcq_exp status ", {"multirun/s/", "once=true", "every="}),
        ("bcq_exp compare multirun/s w", {"watch=", "which="}),
        ("bcq_exp compare which=", {"which=last", "which=best"}),
        ("bcq_exp compare multirun/s/a", {"multirun/s/algo.lmbda=0.5,seed=0/"}),
        ("bcq_exp train algo=td", {"algo=td3_bc"}),
        ("bcq_exp networks=s", {"networks=small"}),
        ("bcq_exp train -m algo.lmbda=0.5,1 trainer.num_s", {"trainer.num_steps="}),
        ("bcq_exp evaluate multirun/s/algo.lmbda=0.5,seed=0 num", {"num_episodes="}),
        ("bcq_exp train algo=nope net", {"networks="}),
        ("bcq_exp export multirun/s format=o", {"format=onnx"}),
    ],
)
def test_a_shell_is_offered(line, offered, tmp_path):
    (tmp_path / "multirun" / "s" / "algo.lmbda=0.5,seed=0").mkdir(parents=True)
    env = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = forked("-sc", "query=bash", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    found = set(done.stdout.split())
    assert found >= offered
    typed = line.rpartition(" ")[2]
    assert found == offered or not typed
    assert all(word.startswith(typed) for word in found)


@pytest.mark.slow
def test_completion_in_bash(tmp_path):
    make_grid(tmp_path / "multirun" / "s")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    resize(terminal, 100)
    screen = pyte.Screen(100, LINES)
    stream = pyte.ByteStream(screen)

    def type_until(keys, line):
        os.write(terminal, keys.encode())
        end = time.monotonic() + 60
        while line not in (shown.rstrip() for shown in screen.display):
            assert time.monotonic() < end, [shown for shown in screen.display if shown.strip()]
            stream.feed(os.read(terminal, 65536))

    type_until("PS1='> '; eval \"$(bcq_exp -sc install=bash)\"; echo rea''dy\n", "ready")
    type_until("bcq_exp comp\t", "> bcq_exp compare")
    type_until(" mul\t", "> bcq_exp compare multirun/")
    type_until("\t", "> bcq_exp compare multirun/s/")
    type_until(" whi\t", "> bcq_exp compare multirun/s/ which=")
    type_until("b\t", "> bcq_exp compare multirun/s/ which=best")
    type_until("\x15bcq_exp train algo=td\t", "> bcq_exp train algo=td3_bc")
    type_until("\x15exit\n", "exit")
    os.close(terminal)
    assert os.waitpid(pid, 0)[0] == pid


@pytest.mark.parametrize("words", [["--help"], ["compare", "{trained}"]])
def test_a_reader_that_leaves_ends_the_command_quietly(words, trained, tmp_path):
    given = [word.format(trained=trained) for word in words]
    reader, output = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "bcq_exp", *given]
    if given != words:  # its page is written elsewhere
        program.append(f"output={tmp_path}")
    done = subprocess.run(program, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_locale_without_unicode_changes_no_file(tmp_path):
    make_grid(tmp_path / "s")
    done = subprocess.run(
        [sys.executable, "-m", "bcq_exp", "compare", "s"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mean ? std" in done.stdout  # it lacks this sign
    page = Path(bcq_exp.__file__).parent / "analysis" / "page" / "page.js"
    assert not page.read_bytes().isascii()
    assert page.read_bytes() in (tmp_path / "s" / "report" / "index.html").read_bytes()
