"""The files of a selection in the sweep's folder, which the report reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcq_exp.analysis.json_values import json_values
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.errors import UserError, first_line
from bcq_exp.files import as_json, write_atomically

if TYPE_CHECKING:  # they bring torch
    from bcq_exp.selection.estimates import Selection

FOLDER = "ope"  # folder in the sweep's: off-policy evaluation
PARTS = {  # types of the parts of the selection's file
    "settings": dict, "notes": list, "policies": list, "behaviour": dict, "quality": dict,
    "budget": dict, "calibration": dict,
}  # fmt: skip
TEXTS = ("run", "folder", "better")  # fields of a policy that are text; the rest are numbers
POLICIES, SELECTION, CRITICS = "policies.csv", "selection.json", "fqe.pt"


def write(selection: Selection, settings: FQESettings, folder: Path) -> None:
    """Write ``policies.csv`` and ``selection.json``.

    Raises:
        CannotWrite: if the system refuses.
    """
    table = selection.policies.to_csv(index=False).encode()
    write_atomically(folder / POLICIES, table)
    content = {
        "settings": asdict(settings),
        "notes": list(selection.notes),
        "policies": selection.policies.to_dict("records"),
        "behaviour": dict(selection.behaviour),
        "quality": {
            estimator: {name: asdict(value) for name, value in measures.items()}
            for estimator, measures in selection.quality.items()
        },
        "budget": {
            start: {name: values.tolist() for name, values in vars(curve).items()}
            for start, curve in selection.budget.items()
        },
        "calibration": {} if selection.calibration is None else asdict(selection.calibration),
    }
    write_atomically(folder / SELECTION, as_json(json_values(content)))


def read(folder: Path) -> dict[str, Any] | None:
    """Read what :func:`write` wrote in a sweep's folder; ``None`` if there is no selection.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / FOLDER / SELECTION
    if not path.exists():
        return None
    try:
        found = {"calibration": {}, **json.loads(path.read_bytes())}  # older files lack it
        if any(not isinstance(found[name], kind) for name, kind in PARTS.items()):
            raise ValueError("its parts have the wrong types")
        policies = [dict(each) for each in found["policies"]]
        texts = [*found["notes"], *(each[name] for each in policies for name in TEXTS)]
        numbers = [{k: v for k, v in each.items() if k not in TEXTS} for each in policies]
        parts = [*numbers, *(found[name] for name, kind in PARTS.items() if kind is dict)]
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError("its texts are not strings")
        if not all(isinstance(value, Real | None) for part in parts for value in _leaves(part)):
            raise ValueError("its numbers are not numbers")
        return {**found, "policies": policies}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}); run `bcq_exp select {folder}` again"
        ) from error


def _leaves(content: Any) -> Iterator[Any]:
    """Yield every value in dictionaries and lists."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _leaves(value)
    else:
        yield content
