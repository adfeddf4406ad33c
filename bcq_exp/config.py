"""The schema of the configuration: every key's type and range, and what checks them.

Each choice file in ``conf/`` names its schema in its defaults list, so Hydra types it as it
composes; :func:`check` then holds the composed values against the ranges given here. A choice file
of one's own may leave the schema out and hold whatever its ``_target_`` takes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bcq_exp.errors import UserError

LONGEST_FOLDER_NAME = 180  # file systems allow 255


@dataclass(frozen=True)
class Range:
    """An interval of numbers, open where ``low_open`` or ``high_open`` says so."""

    low: float = -float("inf")
    high: float = float("inf")
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, x: float) -> bool:
        if not isfinite(x):
            return False
        above = x > self.low if self.low_open else x >= self.low
        below = x < self.high if self.high_open else x <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.low_open else 'at least'} {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class OneOf:
    """A choice among a few values."""

    values: tuple[Any, ...]

    def __contains__(self, x: Any) -> bool:
        return any(x is v or (x == v and type(x) is type(v)) for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join("null" if v is None else str(v).lower() for v in self.values)


@dataclass(frozen=True)
class Matching:
    """A string of a certain form."""

    pattern: str
    words: str

    def __contains__(self, x: Any) -> bool:
        return isinstance(x, str) and re.fullmatch(self.pattern, x) is not None

    def __str__(self) -> str:
        return self.words


Allowed = Range | OneOf | Matching
COUNT = Range(low=1)
NATURAL = Range(low=0)
FRACTION = Range(low=0, high=1)
POSITIVE = Range(low=0, low_open=True)


def allowed(values: Allowed, default: Any = MISSING, *, length: int | None = None) -> Any:
    """A dataclass field with the values it may take.

    For a list, each element; the list holds ``length`` of them, or at least one.
    """
    return field(
        default="???" if default is MISSING else default,
        metadata={"allowed": values, "length": length},
    )


@dataclass
class AlgoConfig:
    lmbda: float = allowed(FRACTION)
    tau: float = allowed(Range(0, 1, low_open=True))
    gamma: float = allowed(FRACTION)
    num_sampled_action: int = allowed(COUNT)


@dataclass
class PolicyConfig:
    forward_sampled_times: int = allowed(COUNT)
    action_scaling: bool = False
    action_bound_method: str | None = allowed(OneOf(("clip", "tanh", None)))


@dataclass
class NetworkConfig:
    _target_: str = "???"
    hidden_sizes: list[int] = allowed(COUNT)


@dataclass
class ActorConfig(NetworkConfig):
    phi: float = allowed(NATURAL)


@dataclass
class VAEConfig(NetworkConfig):
    latent_dim: int | None = allowed(COUNT, None)
    latent_clip: float = allowed(POSITIVE)
    kl_weight: float = allowed(NATURAL)


@dataclass
class OptimizerConfig:
    _target_: str = "???"
    lr: float = allowed(POSITIVE)
    weight_decay: float = allowed(NATURAL)
    max_grad_norm: float | None = allowed(POSITIVE)
    schedule: str = allowed(OneOf(("constant", "linear", "cosine")))
    final_lr_fraction: float = allowed(FRACTION)


@dataclass
class AdamConfig(OptimizerConfig):
    betas: list[float] = allowed(Range(0, 1, high_open=True), length=2)
    eps: float = allowed(POSITIVE)


@dataclass
class RMSpropConfig(OptimizerConfig):
    alpha: float = allowed(Range(0, 1, high_open=True))
    eps: float = allowed(POSITIVE)
    momentum: float = allowed(Range(0, 1, high_open=True))


@dataclass
class SGDConfig(OptimizerConfig):
    momentum: float = allowed(Range(0, 1, high_open=True))
    nesterov: bool = False


@dataclass
class PendulumConfig:
    _target_: str = "???"
    level: str = allowed(OneOf(("expert", "medium", "random", "mixture")))
    num_steps: int = allowed(COUNT)
    seed: int = allowed(NATURAL)


@dataclass
class MinariConfig:
    _target_: str = "???"
    id: str = "???"
    env: str | None = None
    download: bool = True
    use_cache: bool = True


@dataclass
class D4RLConfig:
    _target_: str = "???"
    path: str = "???"
    env: str | None = None
    use_cache: bool = True


@dataclass
class TrainerConfig:
    num_steps: int = allowed(COUNT)
    batch_size: int = allowed(COUNT)
    log_every: int = allowed(COUNT)
    eval_every: int = allowed(COUNT)
    eval_episodes: int = allowed(COUNT)
    eval_seed: int = allowed(NATURAL)
    checkpoint_every: int = allowed(COUNT)
    objective: str = allowed(OneOf(("return_mean", "normalized_score")))
    normalize_obs: bool = False
    device: str = allowed(Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"))
    num_threads: int | None = allowed(COUNT, None)
    precision: str = allowed(OneOf(("auto", "fp32", "bf16", "tf32", "fp64")))
    compile: bool = False


@dataclass
class LoggerConfig:
    mode: str = allowed(OneOf(("offline", "online", "disabled")))
    project: str = "???"
    entity: str | None = None
    group: str | None = None
    job_type: str = "???"
    tags: list[str] = field(default_factory=list)


@dataclass
class TrainConfig:
    """The root of ``python -m bcq_exp``; groups are typed by their own schemas."""

    seed: int = allowed(NATURAL)
    name: str | None = None
    resume: Any = allowed(OneOf(("auto", True, False, "restart")))
    algo: Any = "???"
    policy: Any = "???"
    actor: Any = "???"
    critic: Any = "???"
    vae: Any = "???"
    actor_optim: Any = "???"
    critic_optim: Any = "???"
    vae_optim: Any = "???"
    dataset: Any = "???"
    trainer: Any = "???"
    logger: Any = "???"


@dataclass
class EvaluateConfig:
    """The root of ``python -m bcq_exp.evaluate``."""

    run: str = "???"
    num_episodes: int = allowed(COUNT)
    seed: int = allowed(NATURAL)
    device: str = allowed(Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"))
    video: str | None = allowed(Matching(r".+\.(gif|mp4)", "a path ending in .gif or .mp4"), None)


@dataclass
class CollectConfig:
    """The root of ``python -m bcq_exp.collect``."""

    id: str = "???"
    env: str | None = None
    behaviour: str = allowed(OneOf(("scripted", "random", "run")))
    run: str | None = None
    num_steps: int = allowed(COUNT)
    noise_std: float = allowed(NATURAL)
    random_action_prob: float = allowed(FRACTION)
    seed: int = allowed(NATURAL)
    overwrite: bool = False


def register() -> None:
    """Make the schemas and resolvers known to Hydra; call before composing."""
    store = ConfigStore.instance()
    for group, name, node in (
        ("schema", "train", TrainConfig),
        ("schema", "evaluate", EvaluateConfig),
        ("schema", "collect", CollectConfig),
        ("schema", "algo", AlgoConfig),
        ("schema", "policy", PolicyConfig),
        ("schema", "actor", ActorConfig),
        ("schema", "critic", NetworkConfig),
        ("schema", "vae", VAEConfig),
        ("schema", "adam", AdamConfig),
        ("schema", "rmsprop", RMSpropConfig),
        ("schema", "sgd", SGDConfig),
        ("schema", "pendulum", PendulumConfig),
        ("schema", "minari", MinariConfig),
        ("schema", "d4rl_hdf5", D4RLConfig),
        ("schema", "trainer", TrainerConfig),
        ("schema", "logger", LoggerConfig),
    ):
        store.store(group=group, name=name, node=node, provider="bcq_exp")
    OmegaConf.register_new_resolver("bcq.run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("bcq.run_folder", run_folder, replace=True)


def run_name(name: str | None, resume: Any) -> str:
    """The folder of a run under ``multirun/``: its name, the latest run's, or a new one of its own.

    Raises:
        UserError: if the name is no folder name, or there is no run to resume.
    """
    if name is not None:
        if not re.fullmatch(r"[\w=,+@-][\w=,+@. -]*", str(name)):
            raise UserError(
                f"name={name}: letters, digits and any of _ - . = , + @ (it names a folder)"
            )
        return str(name)
    if resume is True:
        checkpoints = sorted(Path("multirun").glob("*/checkpoint.pt"), key=_modified)
        if not checkpoints:
            raise UserError("resume=true: multirun/ holds no run with a checkpoint; give its name=")
        return checkpoints[-1].parent.name
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{token_hex(2)}"


def run_folder(keys: str, overrides: Sequence[str]) -> str:
    """The folder of a run in its sweep's: what is swept, as ``algo.lmbda=0.5,seed=0``.

    Args:
        keys: the swept ones, joined by commas.
        overrides: all that the run was given.
    """
    swept = keys.split(",")
    given = (override.lstrip("+").partition("=") for override in overrides)
    values = {key: value for key, _, value in given}
    whole = ",".join(f"{key}={values[key]}" for key in swept if key in values)
    short = ",".join(f"{key}={_rounded(values[key])}" for key in swept if key in values)
    name = re.sub(r"[^\w=,+@.-]", "_", short[:LONGEST_FOLDER_NAME])
    if short == whole and len(short) <= LONGEST_FOLDER_NAME:
        return name
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"  # what tells it apart


def _rounded(value: str) -> str:
    """A number as a search draws it, to four digits; everything else as it is."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d*\.\d{6,}(e-?\d+)?", value) else value


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def check(config: DictConfig) -> None:
    """Hold every key and value of a composed configuration against its schema.

    Raises:
        UserError: one line naming the first key that is unknown, still wants a value, or has one
            out of its range, and what is allowed.
    """
    for key, value, schema_field in _leaves(config, ""):
        if value == "???":
            raise UserError(f"{key}: give it a value, {key}=...")
        if schema_field is not None and not _is_allowed(value, schema_field):
            raise UserError(f"{key}={_shown(value)}: must be {describe(schema_field)}")


def describe(schema_field: Field) -> str:
    """What a key may be, in words: its type and range."""
    kind = str(getattr(schema_field.type, "__name__", schema_field.type))
    optional = "None" in kind or schema_field.type is Any
    kind = kind.replace(" | None", "")
    values = schema_field.metadata.get("allowed")
    nouns = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string"}
    if kind.startswith("list"):
        length = schema_field.metadata.get("length") or "one or more"
        words = f"a list of {length} {'integers' if 'int' in kind else 'numbers'}"
        words = "a list of strings" if "str" in kind else words
        return words if values is None else f"{words}, each {values}"
    if values is None:
        return nouns.get(kind, kind)
    words = f"{nouns[kind]} {values}" if isinstance(values, Range) else str(values)
    return f"{words}, or null" if optional and isinstance(values, Range) else words


def schema_of(node: Any) -> dict[str, Field]:
    """The fields of a node's schema by name; empty for a node without one."""
    schema = OmegaConf.get_type(node)
    return {f.name: f for f in fields(schema)} if is_dataclass(schema) else {}


def _is_allowed(value: Any, schema_field: Field) -> bool:
    values, length = schema_field.metadata.get("allowed"), schema_field.metadata.get("length")
    if values is None or (value is None and "None" in str(schema_field.type)):
        return True
    if isinstance(value, list):
        return len(value) in ((length,) if length else range(1, 100)) and all(
            element in values for element in value
        )
    return value in values


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | bool | None) else str(value)


def _leaves(node: DictConfig, prefix: str) -> Iterator[tuple[str, Any, Field | None]]:
    """Every leaf below a node: dotted key, value, and its field of the schema where it has one."""
    known = schema_of(node)
    for name in node:
        key = f"{prefix}{name!s}"
        if key == "hydra":
            continue
        if known and name not in known:
            raise UserError(f"{key}: no such key; there are {', '.join(sorted(known))}")
        if OmegaConf.is_missing(node, name):
            yield key, "???", None
        elif OmegaConf.is_dict(node[name]):
            yield from _leaves(node[name], f"{key}.")
        else:
            value = node[name]
            value = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
            )
            yield key, value, known.get(str(name))


# Keys that may change between the launches of one run: they choose how far it goes, on what, and
# how it is watched, not what is learnt.
_MAY_CHANGE = ("trainer.num_steps", "trainer.device", "trainer.num_threads", "trainer.compile")
_NOT_IDENTITY = ("name", "resume", "logger", *_MAY_CHANGE)


def identity(resolved: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration as dotted keys, less those that do not change what is learnt."""
    return {
        key: value
        for key, value in flattened(resolved)
        if not any(key == k or key.startswith(f"{k}.") for k in _NOT_IDENTITY)
    }


def config_hash(resolved: dict[str, Any]) -> str:
    """A short digest of :func:`identity`: equal for runs that learn the same."""
    canonical = json.dumps(identity(resolved), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def flattened(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a resolved configuration with its dotted key."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
