"""The page in Markdown that explains an exported policy: inputs, outputs, an example, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from bcq_exp.training.acting_network import ActingNetwork

FILES = {"onnx": "policy.onnx", "torch": "policy.pt"}
_EXAMPLES = {
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")
inputs = {{{inputs}}}
({outputs},) = session.run({names}, inputs)
""",
    "torch": """\
import numpy as np
import torch

with open("policy.pt", "rb") as file, torch.no_grad():
    policy = torch.export.load(file).module()
    inputs = {{{inputs}}}
    {outputs} = policy(*map(torch.from_numpy, inputs.values()))
""",
}
_METADATA = {
    "onnx": """\
import json

metadata = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
""",
    "torch": """\
import json

found = {"metadata.json": ""}
with open("policy.pt", "rb") as file:
    torch.export.load(file, extra_files=found)
metadata = json.loads(found["metadata.json"])
""",
}
_ENCODE = """\

def encode(column, value):
    return [value == c for c in column["categories"]] if "categories" in column else [value]

parts = [encode(c, row[c["name"]]) for c in metadata["columns"]["observations"]]
obs = np.concatenate(parts).astype(np.float32)[None]
"""


def page(network: ActingNetwork, format: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page; arguments as of :func:`policy_files.write_policy`."""
    yield f"# {FILES[format]}"
    yield ""
    yield (
        f"A policy of {facts['algorithm']} (seed {facts['seed']}) after {facts['step']} of "
        f"{facts['num_steps']} gradient steps on the data set `{facts['dataset']}`, exported from "
        f"`{facts['run']}` by `bcq_exp export`. It runs without bcq_exp."
    )
    for title, arrays in (("Inputs", network.inputs), ("Outputs", network.outputs)):
        yield f"\n## {title}\n"
        yield "| Name | Type | Shape | Meaning |"
        yield "|---|---|---|---|"
        yield from map(str, arrays)
    yield "\nB is the number of observations, 1 or more."
    yield "\n## Example\n"
    yield f"```python\n{_example(network, format)}```"
    if columns := facts.get("columns"):
        yield from _column_lines(
            columns, getattr(network.policy.action_space, "start", 0), _METADATA[format]
        )
    yield "\n## Limits\n"
    yield from (f"- {limit}" for limit in _limits(network, format))


def _column_lines(columns: Mapping[str, Any], start: int, load: str) -> Iterator[str]:
    """Describe how a table's row becomes an observation, and the actions, from ``start`` on.

    Args:
        load: code that reads the metadata from the file.
    """
    yield "\n## Observations\n"
    yield "| Place in `obs` | Column | Value |"
    yield "|---|---|---|"
    place = 0
    for column in columns["observations"]:
        categories = column.get("categories")
        if categories is None:
            value = "0 or 1" if column["kind"] == "boolean" else "as in the table"
            yield f"| {place} | `{column['name']}` | {value} |"
            place += 1
            continue
        last = place + len(categories) - 1
        value = f"1 at the place of its category, else 0: {_listed(categories)}"
        yield f"| {place} to {last} | `{column['name']}` | {value} |"
        place = last + 1
    yield "\nWith the imports above, a dictionary `row` of these columns becomes `obs`:\n"
    yield f"```python\n{load}{_ENCODE}```"
    yield "\nAn unknown category becomes zeros: check for it before."
    yield "\n## Actions\n"
    names = ", ".join(f"`{column['name']}`" for column in columns["actions"])
    if columns.get("action_values") is None:
        yield f"`act` has the columns {names}."
        return
    yield f"| `act` | {names} |"
    yield "|---|---|"
    for number, value in enumerate(columns["action_values"], start):
        yield f"| {number} | `{json.dumps(value)}` |"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in values)


def _example(network: ActingNetwork, format: str) -> str:
    """Return five lines of code that load the file and act."""
    obs, *latents = network.inputs
    arrays = [f'"{obs.name}": np.zeros({(1, *obs.shape)}, np.float32)']
    arrays += [
        f'"{x.name}": np.random.default_rng(0).standard_normal({(1, *x.shape)}, np.float32)'
        for x in latents
    ]
    names = [x.name for x in network.outputs]
    return _EXAMPLES[format].format(
        inputs=", ".join(arrays), outputs=", ".join(names), names=json.dumps(names)
    )


def _limits(network: ActingNetwork, format: str) -> Iterator[str]:
    line = "Numbers are float32. Actions agree with those of bcq_exp to 1e-6 of their range"
    if network.policy.normal_shape is not None and len(network.policy.normal_shape) > 1:
        line += (
            ", unless two sampled actions of a state have values that differ by less than float32 "
            "resolves: then the other one may be taken"
        )
    yield f"{line}."
    yield "Observations are not validated. Outside of the range of the data, actions mean little."
    if network.policy.normal_shape is not None:
        yield (
            "Actions are sampled: the same `latent` gives the same action. Draw it from a seeded "
            "generator, for each observation its own."
        )
    if format == "torch":
        yield (
            f"Written by torch {torch.__version__}. PyTorch does not promise that other versions "
            "load it; if one does not, export again with it."
        )
        yield "`torch.export.load` uses pickle: load files of trusted sources only."
