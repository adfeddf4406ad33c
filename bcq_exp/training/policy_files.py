"""A trained policy as one file that runs without this package: ONNX, or a torch program.

The file contains everything from the environment's observations to its actions: the scaling of
observations, the networks, and the mapping to the action space. Torch's file is an archive of
``torch.export``, which replaces the deprecated TorchScript.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bcq_exp import extras
from bcq_exp.algorithm.discrete import DiscretePolicy
from bcq_exp.algorithm.networks import UnitActions, choose_compute_dtype
from bcq_exp.algorithm.policy import Policy
from bcq_exp.errors import UserError, first_line
from bcq_exp.files import write_atomically, written
from bcq_exp.training.evaluation import Agent
from bcq_exp.training.policy_page import FILES, page

METADATA = "metadata.json"  # name in torch's archive; in ONNX a property without the suffix


class Array(NamedTuple):
    """An input or output of the file.

    Args:
        shape: the shape of one observation or action, without the batch.
        meaning: a sentence that describes it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    meaning: str

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        return f"| `{self.name}` | {self.type} | (B, {shape}) | {self.meaning} |".replace(
            ", )", ",)"
        )


class ActingNetwork(nn.Module):
    """An agent as a function of tensors, which the file contains.

    ``forward(obs)``, or ``forward(obs, latent)`` of a policy that samples: the environment's
    observations (B, O) and standard normals (B, *normal_shape), both float32, to what the
    environment's ``step`` takes: float32 (B, A), or int64 (B,) and all actions' scores (B, n).

    Raises:
        UserError: if the policy cannot be computed from tensors alone.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        policy, scaling = copy.deepcopy(agent.policy).eval(), agent.normalizer
        kind = type(policy)
        if kind.action is Policy.action:
            raise UserError(
                f"policy: {kind.__name__} has no action(obs, normal), which is exported"
            )
        if policy.has_own_forward:
            raise UserError(
                f"policy: {kind.__name__} has a forward of its own, but only action(obs, normal) "
                "is exported; compute the actions there"
            )
        if policy.normal_shape is not None and 0 in policy.normal_shape:
            raise UserError(
                "vae: it draws its own random numbers, which a file cannot; give it a latent_dim "
                "and decode(obs, latent)"
            )
        choose_compute_dtype(policy, None)
        self.policy = policy
        self._is_scaled = scaling is not None
        if scaling is not None:  # in float64, as bcq_exp applies them
            self.register_buffer("shift", torch.as_tensor(-scaling.mean / scaling.std))
            self.register_buffer("scale", torch.as_tensor(1 / scaling.std))
        self._dtype = next(policy.parameters()).dtype
        if isinstance(space := policy.action_space, Box):
            self.register_buffer("low", torch.as_tensor(space.low, dtype=self._dtype))
            self.register_buffer("high", torch.as_tensor(space.high, dtype=self._dtype))
            if policy.action_scaling:
                self.unit = UnitActions(space.low, space.high).to(self._dtype)

    def forward(self, obs: Tensor, latent: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        # Omit operations without effect, because each takes microseconds.
        if self._is_scaled:
            obs = self.shift.addcmul(obs.double(), self.scale).float()
        obs = self._as(obs, self._dtype)
        if isinstance(self.policy, DiscretePolicy):
            scores = self.policy.scores(obs)
            return self.policy.chosen(scores), self._as(scores, torch.float32)
        normal = None if latent is None else self._as(latent, self._dtype)
        return self._as(self._to_env(self.policy.action(obs, normal)), torch.float32)

    @staticmethod
    def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x if x.dtype == dtype else x.to(dtype)

    def _to_env(self, act: Tensor) -> Tensor:
        """:meth:`~bcq_exp.algorithm.actions.ActionMap.to_env`, of tensors."""
        method = self.policy.action_bound_method
        if self.policy.action_scaling:
            act = self.unit.decode(act.tanh() if method == "tanh" else act)
        return act if method is None else act.clamp(self.low, self.high)

    @property
    def inputs(self) -> list[Array]:
        """The arguments of :meth:`forward`."""
        space = self.policy.observation_space
        assert space is not None and space.shape is not None
        scaled = "" if not self._is_scaled else "; they are scaled inside"
        obs = Array(
            "obs",
            "float32",
            space.shape,
            f"observations as the environment or data have them, flattened{scaled}",
        )
        if self.policy.normal_shape is None:
            return [obs]
        meaning = "standard normal numbers of which actions are sampled; clipped inside"
        return [obs, Array("latent", "float32", self.policy.normal_shape, meaning)]

    @property
    def outputs(self) -> list[Array]:
        """The outputs of :meth:`forward`."""
        space = self.policy.action_space
        if isinstance(space, Discrete):
            last = space.start + space.n - 1
            meaning = f"the number of the best action, {space.start} to {last}"
            scores = "what it is chosen by: values, or logits of a classifier; -inf if not allowed"
            return [
                Array("act", "int64", (), meaning),
                Array("scores", "float32", (int(space.n),), scores),
            ]
        assert isinstance(space, Box)
        bounds = f"from {space.low.tolist()} to {space.high.tolist()}"
        return [
            Array("act", "float32", space.shape, f"actions in the environment's unit, {bounds}")
        ]


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
