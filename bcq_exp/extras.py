"""Optional dependencies, the extras of ``pyproject.toml``."""

from __future__ import annotations

import importlib
import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from bcq_exp.errors import UserError

NAME = "bcq_exp"


def require(module: str, extra: str, needed_by: str) -> Any:
    """Import a module that an extra installs.

    Args:
        needed_by: the key, option or command that needs it.

    Raises:
        UserError: if it cannot be imported; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{needed_by}: {error}; install it: {install_command(extra)}") from None


def install_command(extra: str) -> str:
    """The shell command that adds an extra to this installation, from the same source."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").exists():
        here = "." if checkout == Path.cwd() else str(checkout)
        what = ["-e", f"{here}[{extra}]"]
    else:
        what = [f"{NAME}[{extra}]{_origin()}"]
    installer = ["uv", "pip"] if _recorded("INSTALLER") == "uv" else ["pip"]
    return shlex.join([*installer, "install", *what])


def _origin() -> str:
    """The direct reference of this installation; empty for one from a package index."""
    recorded = _recorded("direct_url.json")
    if not recorded:
        return ""
    origin = json.loads(recorded)  # PEP 610
    url = origin["url"]
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    if "subdirectory" in origin:
        url += f"#subdirectory={origin['subdirectory']}"
    return f" @ {url}"


def _recorded(file: str) -> str:
    """Read a file that the installer wrote; empty if it is missing."""
    try:
        return (distribution(NAME).read_text(file) or "").strip()
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return ""
