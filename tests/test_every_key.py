"""Every key does something: another value gives another training, another record or another call.

Each run is six steps long. Keys that choose no other outcome (ELSEWHERE) have tests of their own,
here, in tests/test_cli.py and in tests/training/.
"""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf

from bcq_exp.algorithm.bcq import BCQ
from bcq_exp.algorithm.networks import VAE, Critic, Perturbation
from bcq_exp.config.identity import flattened
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.placement import resolve_device
from bcq_exp.errors import UserError
from bcq_exp.training import checkpoint
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, compose, fit, spoil_engine

pytestmark = pytest.mark.usefixtures("short_episodes")

OPTIMS = ("actor_optim", "critic_optim", "vae_optim")
BASE = (
    *TINY,
    "trainer.num_steps=6",
    "trainer.batch_size=4",
    "trainer.log_every=2",
    "trainer.eval_every=6",
    "trainer.checkpoint_every=3",
    "policy.action_scaling=true",
    "logger=wandb",
    *(
        f"{optim}.{option}"
        for optim in OPTIMS
        for option in ("max_grad_norm=0.0001", "weight_decay=0.01")
    ),
)
OPTIMIZER = {
    "_target_": "bcq_exp.algorithm.optim.AdamWOptimizerFactory",
    "lr": "0.01",
    "weight_decay": "0.2",
    "max_grad_norm": "null",
    "schedule": "cosine",
    "final_lr_fraction": "0.5",
    "betas": "[0.5,0.9]",
    "eps": "0.1",
}
OTHER = {
    "seed": "1",
    "algo._target_": "tests.test_every_key.OtherBCQ",
    "algo.lmbda": "0.1",
    "algo.tau": "0.5",
    "algo.gamma": "0.5",
    "algo.num_sampled_action": "7",
    "networks.hidden_sizes": "[9]",
    "networks.vae_hidden_sizes": "[9]",
    "policy.forward_sampled_times": "9",
    "policy.action_scaling": "false",
    "policy.action_bound_method": "tanh",
    "actor._target_": "tests.test_every_key.other_perturbation",
    "actor.hidden_sizes": "[9]",
    "actor.phi": "0.4",
    "critic._target_": "tests.test_every_key.other_critic",
    "critic.hidden_sizes": "[9]",
    "vae._target_": "tests.test_every_key.other_vae",
    "vae.hidden_sizes": "[9]",
    "vae.latent_dim": "3",
    "vae.latent_clip": "0.1",
    "vae.kl_warmup": "30",
    "vae.kl_weight": "0.1",
    **{f"{optim}.{key}": value for optim in OPTIMS for key, value in OPTIMIZER.items()},
    "dataset._target_": "tests.test_every_key.other_dataset",
    "dataset.level": "random",
    "dataset.num_steps": "2100",
    "dataset.seed": "1",
    "dataset.holdout": "0.3",
    "trainer.num_steps": "8",
    "trainer.batch_size": "5",
    "trainer.log_every": "3",
    "trainer.eval_every": "2",
    "trainer.eval_episodes": "3",
    "trainer.eval_seed": "1",
    "trainer.checkpoint_every": "2",
    "trainer.objective": "normalized_score",
    "trainer.normalize_obs": "true",
    "trainer.concurrent_from": "10",
    "trainer.precision": "fp64",
    "logger.mode": "disabled",
    "logger.project": "p",
    "logger.entity": "e",
    "logger.group": "g",
    "logger.job_type": "j",
    "logger.tags": "[t]",
}
OPTIMIZER_KEYS = {f"{optim}.{key}" for optim in OPTIMS for key in OPTIMIZER}
LOSSES = ("trainer.eval_episodes=0",)  # alone tell optimizers apart
ELSEWHERE = {
    "resume",
    "name",
    "online",  # tests/engine/test_online.py
    "trainer.device",
    "trainer.num_threads",
    "trainer.engine",
    "trainer.fqe_steps",  # tests/selection
}
OF_OTHER_OPTIMIZERS = {
    "sgd": {"momentum": "0.2", "nesterov": "true"},
    "rmsprop": {"alpha": "0.5", "eps": "0.1", "momentum": "0.5"},
}


def _without(network, **options):
    return network(**{**options, "hidden_sizes": (5,)})


def other_perturbation(**options):
    return _without(Perturbation, **options)


def other_critic(**options):
    return _without(Critic, **options)


def other_vae(**options):
    return _without(VAE, **options)


class OtherBCQ(BCQ):
    """Its targets do not follow."""

    def __init__(self, **options):
        super().__init__(**{**options, "tau": 0.9})


def other_dataset(**options):
    return load_pendulum(**{**options, "seed": 3})


_KNOWN: dict[tuple[str, ...], str] = {}  # what the base configurations give, trained once


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    """Trains; tells all that can be seen of it but the configuration that is written down."""
    import wandb

    started, saved = [], []

    def init(*, config, dir, settings, id, **arguments):
        started.append(arguments)
        return SimpleNamespace(
            settings=SimpleNamespace(sync_file=sys.executable),  # any file of some size
            define_metric=lambda *a, **k: None,
            log=lambda row, step, commit: None,
            starting_step=0,
            summary={},
            finish=lambda exit_code: None,
        )

    def save(path, content, save=checkpoint.save):
        saved.append(content["step"])
        save(path, content)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(checkpoint, "save", save)

    def run(name, *overrides):
        if name == "base" and overrides in _KNOWN:
            return _KNOWN[overrides]
        started.clear()
        saved.clear()
        folder = tmp_path / name
        objective = fit(folder, *BASE, *overrides)
        record = RunRecord(folder)
        episodes = {k: v.tolist() for k, v in record.episodes().items()}
        arguments = [{k: v for k, v in a.items() if k != "name"} for a in started]
        rows = record.rows("train"), record.rows("eval")
        seen = repr((objective, rows, episodes, arguments, saved))
        if name == "base":
            _KNOWN[overrides] = seen
        return seen

    return run


def leaves(cfg):
    return set(dict(flattened(OmegaConf.to_container(cfg))))


def test_every_key_is_covered():
    assert leaves(compose()) == OTHER.keys() | ELSEWHERE
    common = {f"actor_optim.{key}" for key in OPTIMIZER} - {"actor_optim.betas", "actor_optim.eps"}
    for name, options in OF_OTHER_OPTIMIZERS.items():
        keys = {
            key
            for key in leaves(compose(f"optimizer@actor_optim={name}"))
            if key.startswith("actor_optim.")
        }
        assert keys == common | {f"actor_optim.{option}" for option in options}


def test_the_same_configuration_gives_the_same_outcome(outcome):
    assert outcome("one") == outcome("other")


@pytest.mark.parametrize("key", sorted(OTHER.keys() - OPTIMIZER_KEYS))
def test_another_value_gives_another_outcome(key, outcome):
    assert outcome("other", f"{key}={OTHER[key]}") != outcome("base")


@pytest.mark.parametrize("key", sorted(OPTIMIZER_KEYS))
def test_another_value_of_an_optimizer_gives_another_outcome(key, outcome):
    optim, _, option = key.partition(".")
    scheduled = option in ("schedule", "final_lr_fraction")
    common = (*LOSSES, *([f"{optim}.schedule=linear"] if scheduled else []))
    assert outcome("other", *common, f"{key}={OTHER[key]}") != outcome("base", *common)


@pytest.mark.parametrize("optim", OPTIMS)
@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in OF_OTHER_OPTIMIZERS.items() for key in keys]
)
def test_another_value_of_the_other_optimizers_gives_another_outcome(name, key, optim, outcome):
    chosen = (*LOSSES, f"optimizer@{optim}={name}")
    other = outcome("other", *chosen, f"{optim}.{key}={OF_OTHER_OPTIMIZERS[name][key]}")
    assert other != outcome("base", *chosen)


def test_the_device_is_resolved():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"trainer.device=cuda:99: this machine has \d+ CUDA"):
        resolve_device("cuda:99")


def test_threads_are_as_many_as_asked_for(tmp_path, monkeypatch):
    seen, before = set(), torch.get_num_threads()
    spoil_engine(monkeypatch, lambda engine: seen.add(torch.get_num_threads()))
    fit(tmp_path / "r", *BASE, "logger=none", "trainer.num_threads=3")
    assert seen == {3}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("choice", ["pendulum", "minari", "d4rl_hdf5"])
def test_a_dataset_choice_has_the_keys_of_its_loader(choice):
    cfg = compose(f"dataset={choice}").dataset
    parameters = inspect.signature(get_method(cfg._target_)).parameters
    assert {str(key) for key in cfg} - {"_target_"} == set(parameters)
