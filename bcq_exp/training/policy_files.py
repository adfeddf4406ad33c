"""A trained policy as one file that runs without this package: ONNX, or a torch program.

The file contains :class:`~bcq_exp.training.acting_network.ActingNetwork`. Torch's file is an
archive of ``torch.export``, which replaces the deprecated TorchScript.
"""

from __future__ import annotations

import io
import json
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bcq_exp import extras
from bcq_exp.errors import UserError, first_line
from bcq_exp.files import write_atomically, written
from bcq_exp.training.acting_network import ActingNetwork
from bcq_exp.training.evaluation import Agent
from bcq_exp.training.policy_page import FILES, page

METADATA = "metadata.json"  # name in torch's archive; in ONNX a property without the suffix


def traced(network: ActingNetwork) -> torch.export.ExportedProgram:
    """Trace the network as a program of torch operators, for any batch size.

    Raises:
        UserError: naming a module that cannot be traced or draws random numbers.
    """
    examples = tuple(torch.zeros(2, *x.shape) for x in network.inputs)
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            with _NoRandomNumbers():
                network(*examples)
            return torch.export.export(
                network, examples, dynamic_shapes=tuple({0: batch} for _ in examples)
            )
    except Exception as error:  # any error of a custom network, or of torch
        raise UserError(
            f"{_culprit(error, network)}: cannot be exported: {first_line(error)}"
        ) from error


class _NoRandomNumbers(TorchDispatchMode):
    """Refuses operators that draw random numbers, which a file cannot reproduce."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"it draws random numbers ({func}), which a file cannot repeat")
        return func(*args, **(kwargs or {}))


def write_policy(
    agent: Agent, format: str, folder: Path, facts: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Write a policy's file and a page that explains it.

    Args:
        format: one of :data:`FILES`.
        folder: the folder, created if it is missing.
        facts: facts of the run: ``run, algorithm, dataset, seed, step, num_steps``, and a table's
            ``columns``.

    Returns:
        The paths of both.

    Raises:
        UserError: if a module cannot be exported, or a package is missing.
        CannotWrite: if the system refuses.
    """
    if format == "onnx":
        for module in ("onnx", "onnxscript"):
            extras.require(module, "export", "format=onnx")
    if any(place.is_file() for place in (folder, *folder.parents)):
        raise UserError(f"output={folder}: not a folder")
    network = ActingNetwork(agent)
    program = traced(network)
    metadata = {
        **facts,
        "inputs": [x._asdict() for x in network.inputs],
        "outputs": [x._asdict() for x in network.outputs],
    }
    content = (_as_onnx if format == "onnx" else _as_torch)(program, metadata)
    path = folder / FILES[format]
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    explained = path.with_name(f"{path.name}.md")
    write_atomically(explained, "\n".join([*page(network, format, facts), ""]).encode())
    return path, explained


def _as_onnx(program: torch.export.ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    names = [x["name"] for x in metadata["outputs"]]
    with _silent():
        made = torch.onnx.export(program, dynamo=True, verbose=False, output_names=names)
    assert made is not None
    made.model.metadata_props[METADATA.removesuffix(".json")] = json.dumps(metadata)
    return made.model_proto.SerializeToString()


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the exporter's own warnings: missing torchvision, deprecated names."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _as_torch(program: torch.export.ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()  # torch requires the suffix .pt2
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _culprit(error: BaseException, network: nn.Module) -> str:
    """Return the innermost module that raised an error.

    Errors about sizes are raised later: then it is the last module of a custom package.
    """
    parts = list(network.modules())
    others = [x for x in parts if type(x).__module__.split(".")[0] not in ("bcq_exp", "torch")]
    running = [
        found
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if isinstance(found := frame.f_locals.get("self"), nn.Module) and found in parts
    ]
    return _named(network, [network, *others, *running][-1])


def _named(network: nn.Module, module: nn.Module) -> str:
    """Describe a module by its place in the policy and its class."""
    path = next(name for name, found in network.named_modules() if found is module)
    key = path.removeprefix("policy").removeprefix(".")
    return f"{key} ({type(module).__name__})" if key else "policy"
