"""``bcq_exp COMMAND ...``, also ``python -m bcq_exp COMMAND ...``; the command may be left out."""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import redirect_stderr, suppress
from difflib import get_close_matches

from bcq_exp import __version__, signals
from bcq_exp.cli import completion
from bcq_exp.cli.command import may_be_closed
from bcq_exp.errors import RunStopped

DEFAULT = "train"
COMMANDS = {  # name -> module with its main(), and its description
    DEFAULT: ("bcq_exp.train", "train a run, or a sweep with -m (the command may be left out)"),
    "status": ("bcq_exp.status", "show the progress of a sweep"),
    "compare": ("bcq_exp.compare", "compare runs: a table and a report page"),
    "select": ("bcq_exp.select", "rank policies without the environment"),
    "evaluate": ("bcq_exp.evaluate", "evaluate or film a trained policy"),
    "export": ("bcq_exp.export", "write a policy to a file that runs without bcq_exp"),
    "collect": ("bcq_exp.collect", "record a data set"),
    "paper": ("bcq_exp.paper.__main__", "run the experiments of the BCQ paper"),
    "wandb mirror": ("bcq_exp.wandb_mirror", "write W&B runs again from local files"),
    "wandb workspace": ("bcq_exp.wandb_workspace", "save a W&B workspace that compares runs"),
    "wandb sweep": ("bcq_exp.wandb_sweep", "print or create a sweep of the W&B server"),
}


def main() -> None:
    """Run the command that the first word, or the first two, name."""
    try:
        with signals.interruptible(), may_be_closed():  # also during imports
            _main()
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)


def _main() -> None:
    _add_current_folder()
    words = sys.argv[1:]
    if completion.is_query(words):
        _complete()
    name = _named(words)
    if "--version" in words:
        print(f"bcq_exp {__version__}")
    elif name is not None:
        _run(name, words[len(name.split()) :])
    elif words and words[-1] in ("-h", "--help") and _following(" ".join(words[:-1])):
        print(_overview(" ".join(words[:-1])))
    elif words and re.fullmatch(r"[A-Za-z][\w-]*", words[0]):
        print(f"error: {_unknown(words)}", file=sys.stderr)
        sys.exit(2)
    else:
        _run(DEFAULT, words)


def _add_current_folder() -> None:
    """Import custom code from the current folder, as ``python -m`` does."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _named(words: list[str]) -> str | None:
    """Return the command that the words begin with, if any."""
    return next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)


def _run(name: str, words: list[str]) -> None:
    module, _ = COMMANDS[name]
    sys.argv[1:] = words
    importlib.import_module(module).main()


def _overview(group: str) -> str:
    """List the commands, one line each."""
    lines = [f"  {name:16}  {text}" for name, (_, text) in COMMANDS.items() if group in name]
    return "\n".join(
        [
            f"usage: bcq_exp {f'{group} '.lstrip()}COMMAND [FOLDER ...] [KEY=VALUE ...]",
            "",
            "Offline reinforcement learning experiments with BCQ.",
            "",
            *lines,
            "",
            "bcq_exp COMMAND --help shows a command's keys, bcq_exp train --help those of a run.",
        ]
    )


def _following(group: str) -> list[str]:
    """Return the words that may follow a group of commands; all first words if it is empty."""
    names = (name.split() for name in COMMANDS)
    depth = len(group.split())
    following = (words[depth] for words in names if words[:depth] == group.split() != words)
    return list(dict.fromkeys(following))


def _unknown(words: list[str]) -> str:
    """The message for words that name no command."""
    group = words[0] if _following(words[0]) else ""
    given = " ".join(words[: 2 if group else 1])
    choices = _following(group)
    near = get_close_matches(given.split()[-1], choices, 1)
    commands = [f"{group} {choice}".strip() for choice in near or choices]
    meant = f"did you mean {commands[0]}?" if near else f"there are {', '.join(commands)}"
    return f"{given}: no such command; {meant}"


def _complete() -> None:
    """Complete a line for a shell: commands first, then a command's arguments."""
    before, typed = completion.line()
    program, *words = before or ["bcq_exp"]
    commands = _following(" ".join(words))
    if any(command.startswith(typed) for command in commands):
        completion.answer(commands)
    name = _named(words)
    rest = words if name is None else words[len(name.split()) :]
    completion.replace_line([program, *rest], typed)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), suppress(Exception):
        _run(name or DEFAULT, sys.argv[1:])
    sys.exit(0)


if __name__ == "__main__":
    main()
