"""Check a user's files, of experiments and sweeps above all, before Hydra reads them.

Hydra's errors about a file often name neither the file nor the key, and some mistakes are valid for
Hydra: an empty node, a choice in place of a node, a package line that is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bcq_exp.cli.schemas import LIST, NUMBER, conf_folder, kind_of
from bcq_exp.config.keys import schema_of
from bcq_exp.config.overrides import key_and_value
from bcq_exp.config.schema import RunConfig
from bcq_exp.errors import UserError

GROUPS = ("experiment", "sweep")  # which have no node: their choices set keys of other groups
PACKAGE = "# @package _global_"


def check_own_files(folders: Sequence[Path], overrides: Sequence[str]) -> None:
    """Check the files in the first of ``folders`` that has them, which overrides choose.

    Raises:
        UserError: one line naming the file, the key and the remedy.
    """
    for override in overrides:
        key, values = key_and_value(override)
        group = key.partition("@")[0]
        for choice in re.findall(r"[\w./-]+", values if re.fullmatch(r"[\w/]+", group) else ""):
            _check(folders, f"{group}/{choice}")


def _check(folders: Sequence[Path], name: str, within: Sequence[str] = ()) -> None:
    """Check a file, ``GROUP/CHOICE``, and the files that its defaults list names."""
    if (conf_folder() / f"{name}.yaml").exists():  # which Hydra prefers
        return
    path = next((p for folder in folders if (p := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        if any((folder / f"{name}.yml").is_file() for folder in folders):
            raise UserError(f"{name}.yml: rename it to {name}.yaml, as Hydra reads no other ending")
        return
    try:
        text = path.read_text("utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # which Hydra reports
        return
    for mistake in _mistakes(text, content, needs_package=name.partition("/")[0] in GROUPS):
        raise UserError(f"{name}.yaml: {mistake}")
    for other in _named(name, content or {}):
        if other in (*within, name):
            raise UserError(
                f"{name}.yaml: its defaults list leads back to {other}; remove it there"
            )
        _check(folders, other, (*within, name))


def _named(name: str, content: Mapping[Any, Any]) -> Iterator[str]:
    """The files that a defaults list adds."""
    for entry in _defaults(content):
        if isinstance(entry, str) and entry != "_self_":
            path = entry if entry.startswith("/") else f"{name.rpartition('/')[0]}/{entry}"
            yield path.strip("/").removesuffix(".yaml")
        elif isinstance(entry, dict):
            pairs = ((str(group).partition("@")[0], choice) for group, choice in entry.items())
            yield from (f"{g[1:]}/{choice}" for g, choice in pairs if g.startswith("/"))


def _defaults(content: Mapping[Any, Any]) -> list[Any]:
    defaults = content.get("defaults")
    return defaults if isinstance(defaults, list) else []


def _mistakes(text: str, content: Any, *, needs_package: bool) -> Iterator[str]:
    if text.startswith("\ufeff"):
        yield "begins with a byte order mark; save it as UTF-8 without one"
    elif not isinstance(content, dict | None):
        yield "must be lines KEY: VALUE, with a space after the colon"
    elif (package := _package(text)) is None and needs_package:
        yield f"its first line must be '{PACKAGE}', as it sets keys outside its own group"
    elif content and package == "_global_":
        yield from filter(None, map(_of_default, _defaults(content)))
        yield from _of_nodes(content)


def _package(text: str) -> str | None:
    """The package of a file, which Hydra reads before the first line of another sort."""
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := re.fullmatch(r"#+\s*@package\s+(\S+)", line):
            return found[1]
        if not re.match(r"#\s*@", line):
            break
    return None


def _of_default(entry: Any) -> str | None:
    """Explain an entry of a defaults list that chooses a file of another group."""
    if not isinstance(entry, dict):
        return None
    for words, choice in entry.items():
        *keywords, given = str(words).split() or [""]
        group = given.strip("/")
        name = group.partition("@")[0]
        if not (conf_folder() / name).is_dir():
            continue
        if name == "sweep" and keywords:
            return f"`{words}: {choice}`: give sweep={choice} on the command line, not in a file"
        is_chosen_already = name in schema_of(RunConfig) or name.startswith("hydra/")
        if not given.startswith("/") or (not keywords and is_chosen_already):
            return f"`{words}: {choice}`: write `override /{group}: {choice}`"
    return None


def _of_nodes(content: Mapping[Any, Any]) -> Iterator[str]:
    # a file that chooses online=explore, or is such a choice, has no dataset
    nullable = ("online", "dataset") if "online" in str(content) else ("online",)
    for name, value in content.items():
        if name == "defaults":
            continue
        group = _group_of(str(name))
        if group is not None and group.startswith("hydra/") and not isinstance(value, str):
            yield f"{name}: belongs below hydra:, as hydra: {name}: ..."
        elif name == "params":
            yield "params: belongs below hydra:, as hydra: sweeper: params: ..."
        elif group is not None and not (value is None and name in nullable):
            yield from _of_node(str(name), group, value)
    hydra = content.get("hydra")
    if isinstance(hydra, dict):
        for name, value in hydra.items():
            if name == "params":
                yield "hydra.params: belongs below sweeper:, as hydra: sweeper: params: ..."
            elif (conf_folder() / "hydra" / str(name)).is_dir():
                yield from _of_node(f"hydra.{name}", f"hydra/{name}", value)
        if isinstance(sweeper := hydra.get("sweeper"), dict):
            yield from _of_sweeper(sweeper)


def _of_node(key: str, group: str, value: Any) -> Iterator[str]:
    """Explain a value of a node that must have keys."""
    if group in GROUPS:
        yield f"{key}: give {key}={value or 'NAME'} on the command line, not in a file"
    elif value is None:
        yield f"{key}: has no keys; give it some or delete it"
    elif isinstance(value, str) and not value.startswith(("${", "???")):
        line = f"- override /{group}: {value}"
        yield f"{key}: {value}: to choose a file of {group}, write `{line}` below defaults:"


def _of_sweeper(sweeper: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in sweeper.items():
        is_key = "." in str(key) or str(key) in schema_of(RunConfig) or _group_of(str(key))
        if is_key and not (key == "seed" and isinstance(value, int)):  # an earlier version's key
            yield f"hydra.sweeper.{key}: belongs below params:, as hydra: sweeper: params: {key}:"
    params = sweeper.get("params")
    if isinstance(params, str | list):
        yield "hydra.sweeper.params: must be lines KEY: VALUES, with a space after the colon"
    elif isinstance(params, dict):
        for key, value in params.items():
            is_nested = isinstance(value, list) and any(isinstance(each, list) for each in value)
            kind = kind_of(str(key))
            if isinstance(value, list) and (kind == NUMBER or (kind == LIST and is_nested)):
                values = json.dumps(value)[1:-1].replace(", ", ",")
                shown = f'"{values}"' if is_nested else values
                yield f"hydra.sweeper.params.{key}: to sweep, write `{key}: {shown}`"


@cache
def _group_of(name: str) -> str | None:
    """The group of a node, ``GROUP@NODE`` if its name is another; ``None`` if it is none."""
    for group in (name, f"hydra/{name}"):
        if re.fullmatch(r"\w+", name) and (conf_folder() / group).is_dir():
            return group
    for path in (conf_folder() / "algo").glob("*.yaml"):
        if found := re.search(rf"/(\w+@{re.escape(name)}):", path.read_text("utf-8")):
            return found[1]
    return None
