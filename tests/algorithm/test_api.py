"""Names, parameters and defaults that others rely on."""

import inspect

import pytest

import bcq_exp
from bcq_exp.algorithm.base import (
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Policy,
)

REQUIRED = inspect.Parameter.empty
POLICY = {
    "actor_perturbation": REQUIRED,
    "action_space": REQUIRED,
    "critic": REQUIRED,
    "vae": REQUIRED,
    "forward_sampled_times": 100,
    "observation_space": None,
    "action_scaling": False,
    "action_bound_method": "clip",
}
ALGORITHM = {
    "policy": REQUIRED,
    "actor_perturbation_optim": REQUIRED,
    "critic_optim": REQUIRED,
    "vae_optim": REQUIRED,
    "critic2": None,
    "critic2_optim": None,
    "gamma": 0.99,
    "tau": 0.005,
    "lmbda": 0.75,
    "num_sampled_action": 10,
}
CONTRACT = [
    "BCQ",
    "BCQPolicy",
    "BCQTrainingStats",
    "TrainingStats",
    "VAE",
    "Perturbation",
    "OptimizerFactory",
    "AdamOptimizerFactory",
    "Transitions",
    "Batch",
    "load_policy",
]
LOSSES = ["actor_loss", "critic1_loss", "critic2_loss", "vae_loss"]


@pytest.mark.parametrize(
    ("cls", "expected"), [(bcq_exp.BCQPolicy, POLICY), (bcq_exp.BCQ, ALGORITHM)]
)
def test_parameters_are_keyword_only_with_these_defaults(cls, expected):
    parameters = inspect.signature(cls).parameters
    assert {name: p.default for name, p in parameters.items()} == expected
    assert list(parameters) == list(expected)
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_parameters_of_the_statistics_and_their_defaults():
    parameters = inspect.signature(bcq_exp.BCQTrainingStats).parameters
    assert list(parameters) == ["train_time", "smoothed_loss", *LOSSES]
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["train_time"].default == 0.0
    assert all(parameters[name].default is REQUIRED for name in LOSSES)


def test_statistics_have_a_dictionary_of_their_own():
    losses = dict.fromkeys(LOSSES, 1.0)
    first, second = (bcq_exp.BCQTrainingStats(**losses) for _ in range(2))
    assert first.train_time == 0.0
    assert first.smoothed_loss == {}
    assert first.smoothed_loss is not second.smoothed_loss
    assert first.losses() == losses


def test_forward_takes_a_batch_a_state_and_anything_by_name():
    parameters = inspect.signature(bcq_exp.BCQPolicy.forward).parameters
    assert list(parameters) == ["self", "batch", "state", "kwargs"]
    assert parameters["state"].default is None
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_class_hierarchy():
    assert issubclass(bcq_exp.BCQPolicy, Policy)
    assert issubclass(bcq_exp.BCQ, OfflineAlgorithm)
    assert issubclass(bcq_exp.BCQ, LaggedNetworkPolyakUpdateAlgorithmMixin)
    assert issubclass(bcq_exp.BCQTrainingStats, bcq_exp.TrainingStats)
    assert issubclass(bcq_exp.AdamOptimizerFactory, bcq_exp.OptimizerFactory)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_package_exports(name):
    assert getattr(bcq_exp, name).__name__ == name
    assert name in bcq_exp.__all__


def test_every_exported_name_exists():
    assert all(getattr(bcq_exp, name).__name__ == name for name in bcq_exp.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'BCQQ'"):
        _ = bcq_exp.BCQQ
