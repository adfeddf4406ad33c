"""The schema: every key's type, range and role.

Each choice file in ``conf/`` names its schema in its defaults list, so Hydra types it as it
composes. A custom choice file may leave the schema out and hold any keys of its ``_target_``: that
constructor then checks them, and all of them belong to the run's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from bcq_exp.config.keys import (
    EVALUATING,
    EXTENDING,
    LEARNING,
    MEASURING,
    PER_RUN,
    PLACING,
    WATCHING,
    KeyRole,
    key,
    schema_of,
)
from bcq_exp.config.naming import run_folder, run_name
from bcq_exp.config.plugin_schema import PLUGIN_SCHEMAS
from bcq_exp.ranges import (
    BOUND_METHODS,
    COUNT,
    DECAY_RATE,
    DEVICE,
    FINITE,
    FQE,
    FRACTION,
    KL_WEIGHT,
    LATENT_CLIP,
    NATURAL,
    PATH,
    PHI,
    POSITIVE,
    SCHEDULES,
    SEED,
    SHARE,
    THREADS,
    WANDB_ENTITY,
    WANDB_NAME,
    WANDB_PROJECT,
    WANDB_TAG,
    Matching,
    OneOf,
)

PRECISIONS = OneOf(("auto", "fp32", "bf16", "tf32", "fp64"))


@dataclass
class AlgoConfig:
    """An algorithm with its hyperparameters."""

    _target_: str = key(role=LEARNING)


def of_hyperparameters(hyperparameters: type, module: str) -> type[AlgoConfig]:
    """Make the schema of an algorithm from the dataclass of its hyperparameters.

    Args:
        hyperparameters: each field's metadata have its range (``allowed``), its meaning (``doc``),
            and whether stacked runs may differ in it (``stackable``).
        module: the module that has the schema under the dataclass's name.
    """
    keys = [
        (
            f.name,
            f.type,
            key(
                f.metadata["allowed"],
                f.default,
                PER_RUN if f.metadata["stackable"] else None,
                doc=f.metadata["doc"],
            ),
        )
        for f in fields(hyperparameters)
    ]
    made = make_dataclass(hyperparameters.__name__, keys, bases=(AlgoConfig,))
    made.__module__ = module  # pickle looks there; Python 3.12 would name this module
    return made


@dataclass
class PolicyConfig:
    action_scaling: Any = key(OneOf(("auto", True, False)))
    action_bound_method: str | None = key(BOUND_METHODS)


@dataclass
class BCQPolicyConfig(PolicyConfig):
    forward_sampled_times: int = key(COUNT, role=PER_RUN)


@dataclass
class NetworksConfig:
    """The sizes that networks refer to; each network's own sizes are part of the identity."""

    role: ClassVar[KeyRole] = WATCHING

    hidden_sizes: list[int] = key(COUNT)
    vae_hidden_sizes: list[int] = key(COUNT)


@dataclass
class NetworkConfig:
    _target_: str = "???"
    hidden_sizes: list[int] = key(COUNT)


@dataclass
class GaussianActorConfig(NetworkConfig):
    state_dependent_std: bool = key()


@dataclass
class PerturbationConfig(NetworkConfig):
    phi: float = key(PHI, role=PER_RUN)


@dataclass
class VAEConfig(NetworkConfig):
    latent_dim: int | None = key(COUNT, None)
    latent_clip: float = key(LATENT_CLIP, role=PER_RUN)
    kl_weight: float = key(KL_WEIGHT, role=PER_RUN)
    kl_warmup: int | None = key(COUNT, None)


@dataclass
class OptimizerConfig:
    role: ClassVar[KeyRole] = PER_RUN

    _target_: str = "???"
    lr: float = key(POSITIVE)
    weight_decay: float = key(NATURAL)
    max_grad_norm: float | None = key(POSITIVE)
    schedule: str = key(SCHEDULES)
    final_lr_fraction: float = key(FRACTION)


@dataclass
class AdamConfig(OptimizerConfig):
    betas: list[float] = key(DECAY_RATE, length=2)
    eps: float = key(POSITIVE)


@dataclass
class RMSpropConfig(OptimizerConfig):
    alpha: float = key(DECAY_RATE)
    eps: float = key(POSITIVE)
    momentum: float = key(DECAY_RATE)


@dataclass
class SGDConfig(OptimizerConfig):
    momentum: float = key(DECAY_RATE)
    nesterov: bool = False


@dataclass
class PendulumConfig:
    _target_: str = "???"
    level: str = key(OneOf(("expert", "medium", "random", "mixture")))
    num_steps: int = key(COUNT)
    seed: int = key(SEED)
    holdout: float | None = key(SHARE, None)


@dataclass
class MinariConfig:
    _target_: str = "???"
    id: str = "???"
    env: str | None = None
    download: bool = key(default=True, role=PLACING)
    use_cache: bool = key(default=True, role=PLACING)
    clip_actions: bool | None = None
    holdout: float | None = key(SHARE, None)


@dataclass
class D4RLConfig:
    _target_: str = "???"
    path: str = key(PATH)
    env: str | None = None
    action_bounds: list[Any] | None = None
    use_cache: bool = key(default=True, role=PLACING)
    clip_actions: bool | None = None
    holdout: float | None = key(SHARE, None)


@dataclass
class TableConfig:
    _target_: str = "???"
    path: str = key(PATH)
    env: str | None = None
    episode: str | None = None
    time: str | None = None
    observations: Any = None
    actions: Any = None
    reward: str | None = None
    terminated: Any = None
    truncated: str | None = None
    behaviour_prob: str | None = None
    categorical: list[str] = field(default_factory=list)
    action_type: str | None = key(OneOf((None, "discrete", "continuous")), None)
    allowed_actions: list[Any] | None = None
    action_bounds: list[Any] | None = None
    empty_reward: float | None = key(FINITE, None)
    use_cache: bool = key(default=True, role=PLACING)
    clip_actions: bool | None = None
    holdout: float | None = key(SHARE, None)


@dataclass
class OnlineConfig:
    _target_: str = "???"
    env: str = "???"
    start_steps: int = key(NATURAL)
    noise_std: float = key(NATURAL)


@dataclass
class TrainerConfig:
    num_steps: int = key(COUNT, role=EXTENDING)
    batch_size: int = key(COUNT)
    log_every: int = key(COUNT, role=MEASURING)
    eval_every: int = key(COUNT, role=MEASURING)
    eval_episodes: int = key(NATURAL, role=EVALUATING)
    eval_seed: int = key(SEED, role=EVALUATING)
    checkpoint_every: int = key(COUNT, role=MEASURING)
    objective: str = key(OneOf(("return_mean", "normalized_score", FQE)), role=WATCHING)
    fqe_steps: int = key(COUNT, role=WATCHING)
    normalize_obs: bool = False
    concurrent_from: int | None = key(COUNT, None)
    device: str = key(DEVICE, role=PLACING)
    num_threads: int | None = key(THREADS, None, PLACING)
    precision: str = key(PRECISIONS)
    engine: str = key(OneOf(("auto", "eager", "xla", "cuda_graph")), role=PLACING)


@dataclass
class LoggerConfig:
    role: ClassVar[KeyRole] = WATCHING

    mode: str = key(OneOf(("offline", "online", "disabled")))
    project: str = key(WANDB_PROJECT)
    entity: str | None = key(WANDB_ENTITY, None)
    group: str | None = key(WANDB_NAME, None)
    job_type: str = key(WANDB_NAME)
    tags: list[str] = key(WANDB_TAG)


@dataclass
class RunConfig:
    """The root of ``bcq_exp train`` without the nodes that ``algo`` composes.

    Because of those nodes Hydra does not type it; :func:`bcq_exp.config.checking.check` does.
    """

    seed: int = key(SEED, role=PER_RUN)
    name: str | None = key(default=None, role=WATCHING)
    resume: Any = key(OneOf(("auto", True, False, "restart")), role=WATCHING)
    algo: Any = "???"
    networks: Any = key(schema=NetworksConfig)
    dataset: Any = key(
        schema=MinariConfig
    )  # a stored one has no type: its keys have Minari's roles
    online: Any = key(default=None, schema=OnlineConfig)
    trainer: Any = key(schema=TrainerConfig)
    logger: Any = key(schema=LoggerConfig)


@dataclass
class AgentConfig:
    """A behaviour agent, which learns online."""

    num_steps: int = key(COUNT)
    start_steps: int = key(NATURAL)
    networks: str = "???"
    precision: str = key(PRECISIONS)
    eval_every: int = key(COUNT)
    logger: str = "???"


@dataclass
class CollectingAgentConfig(AgentConfig):
    name: str | None = None
    noise_std: float = key(NATURAL)


@dataclass
class CollectConfig:
    """The root of ``bcq_exp collect``."""

    id: str = "???"
    dataset: Any = None
    trainer: Any = None  # of a choice of dataset that also sets keys of it; not for collecting
    env: str | None = None
    behaviour: str = key(OneOf(("scripted", "random", "run", "ddpg")))
    run: str | None = key(PATH, None)
    trust: bool = False
    record: str = key(OneOf(("policy", "buffer")))
    agent: CollectingAgentConfig = field(default_factory=CollectingAgentConfig)
    num_steps: int | None = key(COUNT, None)
    noise_std: float = key(NATURAL)
    random_action_prob: float = key(FRACTION)
    seed: int = key(SEED)
    overwrite: bool = False


@dataclass
class TransitionsConfig:
    """The number of transitions recorded in each setting."""

    final_buffer: int = key(COUNT)
    concurrent: int = key(COUNT)
    imitation: int = key(COUNT)
    imperfect: int = key(COUNT)


@dataclass
class LearnerConfig:
    """The common settings of the paper's learners."""

    num_steps: int = key(COUNT)
    networks: str = "???"
    precision: str = key(PRECISIONS)
    eval_every: int = key(COUNT)
    eval_episodes: int = key(COUNT)
    logger: str = "???"


@dataclass
class PaperConfig:
    """The root of ``bcq_exp paper``."""

    name: str = key(Matching(r"[\w-]+", "letters, digits, _ and -"))
    envs: list[str] = key()
    settings: list[str] = key(OneOf(tuple(schema_of(TransitionsConfig))))
    algorithms: list[str] = key(
        OneOf(("bcq", "bc", "vae_bc", "ddpg", "dqn", "td3_bc", "iql", "cql"))
    )
    num_seeds: int = key(COUNT)
    own_agents: bool = key()
    at_once: int = key(COUNT)
    plan_only: bool = key()
    agent: AgentConfig = field(default_factory=AgentConfig)
    transitions: TransitionsConfig = field(default_factory=TransitionsConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)


SCHEMAS = {  # as choice files name them: /schema/NAME@_here_
    "collect": CollectConfig,
    "paper": PaperConfig,
    "algo": AlgoConfig,
    "policy": PolicyConfig,
    "bcq_policy": BCQPolicyConfig,
    "networks": NetworksConfig,
    "network": NetworkConfig,
    "gaussian_actor": GaussianActorConfig,
    "perturbation": PerturbationConfig,
    "vae": VAEConfig,
    "adam": AdamConfig,
    "rmsprop": RMSpropConfig,
    "sgd": SGDConfig,
    "pendulum": PendulumConfig,
    "minari": MinariConfig,
    "d4rl_hdf5": D4RLConfig,
    "table": TableConfig,
    "online": OnlineConfig,
    "trainer": TrainerConfig,
    "logger": LoggerConfig,
}


def source(config: Mapping[str, Any]) -> Any:
    """Return the node of a run's transitions: ``online``, or ``dataset``."""
    return config.get("online") or config["dataset"]


def in_present_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a stored configuration to the present keys.

    Earlier versions stored the node ``online`` as ``dataset``.
    """
    data, online = stored.get("dataset"), stored.get("online")
    if isinstance(data, Mapping) and data.get("_target_") == "bcq_exp.data.online.explore":
        data, online = None, data
    named = {"dataset": data, "online": online}
    others = {name: value for name, value in stored.items() if name not in named}
    return others | {name: node for name, node in named.items() if node is not None}


def register(algorithms: Mapping[str, type[AlgoConfig]]) -> None:
    """Register the schemas and resolvers with Hydra; call before composing.

    Args:
        algorithms: the schemas of the algorithms that have hyperparameters, by name.
    """
    store = ConfigStore.instance()
    for name, node in {**SCHEMAS, **PLUGIN_SCHEMAS, **algorithms}.items():
        store.store(group="schema", name=name, node=node, provider="bcq_exp")
    OmegaConf.register_new_resolver("bcq.run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("bcq.run_folder", run_folder, replace=True)
