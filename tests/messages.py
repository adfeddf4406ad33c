"""All sentences that users see, by where they stand: python -m tests.messages

Collected from the source: what errors say, what is logged and printed, the help of options, the
report page's texts and the comments of conf/. A value that is filled in shows as {...}.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ERRORS = re.compile(r"(Error|Damaged|Refused|Stopped|Killed|Exit|exit)$")
PAGE_TEXT = re.compile(r">([^<>]+)<|\"([^\"]+)\"|`([^`]+)`")  # of HTML, and strings of JavaScript
SENTENCE = re.compile(r"[^<>=;`\[\]]*[a-z]{2,},? [a-z]{2,}[^<>=;`\[\]]*")  # no styles, no markup
SHOWN = {"warning", "info", "error", "critical", "print", "say", "write", "add_argument", "note"}


def messages() -> list[tuple[str, str]]:
    """(place, message) of each, in the order of the files."""
    found = []
    for path in sorted((ROOT / "bcq_exp").rglob("*.py")):
        for line, text in _of_module(path):
            found.append((f"{path.relative_to(ROOT)}:{line}", text))
    for path in sorted((ROOT / "bcq_exp" / "analysis" / "page").glob("*.[hj]*")):
        for i, line in enumerate(path.read_text().splitlines(), 1):
            for text in map("".join, PAGE_TEXT.findall(line)):
                text = re.sub(r"\$\{.*?\}", "{...}", text).strip()
                if SENTENCE.fullmatch(text):
                    found.append((f"{path.relative_to(ROOT)}:{i}", text))
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        for i, line in enumerate(path.read_text().splitlines(), 1):
            comment = line.partition("# ")[2].strip()
            if comment and not comment.startswith("@package"):
                found.append((f"{path.relative_to(ROOT)}:{i}", comment))
    return found


def _of_module(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and _is_shown(node.func):
            values = [*node.args, *(k.value for k in node.keywords if k.arg in (None, "help"))]
            for text in filter(None, map(_text, values)):
                if " " in text.strip():
                    yield node.lineno, text


def _is_shown(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in SHOWN or bool(ERRORS.search(name))


def _text(node: ast.expr) -> str:
    """The words of a string, a formatted one, or a sum or choice of them; else none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{...}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return (_text(node.left) or "{...}") + (_text(node.right) or "{...}")
    if isinstance(node, ast.IfExp):
        return " | ".join(filter(None, (_text(node.body), _text(node.orelse))))
    return ""


if __name__ == "__main__":
    for place, message in messages():
        print(f"{place}: {message}")
