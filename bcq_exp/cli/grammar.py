"""Overrides that Hydra's grammar cannot parse, or reads in another sense than was meant."""

from __future__ import annotations

import shlex
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from bcq_exp.cli.schemas import LIST, NUMBER, conf_folder, kind_of


def several_values(override: str) -> str:
    """The message for an override that sweeps, of a single run."""
    key, _, values = override.partition("=")
    words = f"{override}: several values need a sweep; add -m"
    if "(" in values or (conf_folder() / key.partition("@")[0]).is_dir():
        return words
    if kind_of(key) == LIST:
        return f"{words}, or write {key}=[{values}] for a list"
    if kind_of(key) == NUMBER:
        return f"{words}, or write one number without a comma"
    return f"{words}, or write {shlex.quote(f'{key}={in_quotes(values)}')} for text with a comma"


def of_override(error: BaseException) -> str | None:
    """Explain an override that Hydra cannot parse, and suggest how to write it."""
    if not isinstance(error, OverrideParseException):
        return None
    key, equals, value = error.override.partition("=")
    if not (key and equals):
        return f"{error.override}: must be KEY=VALUE without spaces, or in quotes"
    if remedy := _remedy(key, value):
        return f"{error.override}: {remedy}"
    if kind_of(key) == NUMBER and value[:1] not in ("[", "{", "$"):
        return f"{error.override}: must be one number; to sweep, write {key}=A,B with -m"
    if kind_of(key) == LIST and not value.startswith("["):
        value = f"[{value}]"
    for quoted in (_with_quoted_elements(value), in_quotes(value)):
        if quoted is not None and "${" not in value and parsed(f"{key}={quoted}"):
            return f"{error.override}: needs quotes; write {shlex.quote(f'{key}={quoted}')}"
        if value.startswith(("[", "{")):  # in quotes as a whole it would be text
            break
    return f"{error.override}: cannot be parsed; check that every bracket and quote is closed"


def _remedy(key: str, value: str) -> str | None:
    """How to write a number, a list or several of them; ``None`` if the value may be text."""
    kind, bare = kind_of(key.lstrip("+")), value.strip(" (){},=")
    if key != key.strip() and value:
        return f"write {key.strip()}={value.strip()}, without spaces"
    if kind not in (LIST, NUMBER):
        return None
    if value.startswith("=") and bare:
        return f"write {key}={bare}, with one equals sign"
    if value.endswith(",") and value.startswith("["):
        return f"write the list without spaces, as in {key}=[A,B]"
    if value.endswith(",") and bare:
        return f"write the values without spaces and without a comma at the end, as in {key}={bare}"
    if value.startswith(("(", "{")) and kind == LIST:
        return f"write {key}=[{bare}]"
    if value.startswith(("(", "{")):
        line = f"write {key}={bare} with -m for these values"
        search = f", or {key}=interval({bare}) with hydra/sweeper=optuna for a search between them"
        return line + search * (bare.count(",") == 1)
    function, bracket, _ = value.partition("(")
    if bracket and function not in create_functions().functions:
        return (
            f"there is no function {function}; list the values, as in {key}=A,B,C, or use "
            "range(START,STOP,STEP), choice(...) or, with hydra/sweeper=optuna, interval(LOW,HIGH)"
        )
    if num_open := value.count("(") - value.count(")"):
        return f"close the bracket: {key}={value}{')' * num_open}" if num_open > 0 else None
    return None


def _with_quoted_elements(value: str) -> str | None:
    """Quote the elements of a list that need it; ``None`` for a value that is no list."""
    if not (value.startswith("[") and value.endswith("]")):
        return None
    elements = [element.strip() for element in value[1:-1].split(",")]
    return f"[{','.join(e if parsed(f'_={e}') else in_quotes(e) for e in elements)}]"


def in_quotes(text: str) -> str:
    """A text as Hydra's grammar reads it, whatever is in it."""
    return QuotedString(text, Quote.double).with_quotes()


def parsed(override: str) -> Override | None:
    """Parse an override; ``None`` if Hydra's grammar cannot, which Hydra reports."""
    with suppress(HydraException):
        return OverridesParser.create().parse_override(override)
    return None


def reads_as_text(override: str) -> bool:
    """Whether Hydra's grammar reads the value of an override as unchanged text."""
    given = parsed(override)
    return given is not None and given.value() == override.partition("=")[2]
