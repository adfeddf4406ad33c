"""Outputs of networks are checked before training, by what they stand in for."""

import threading

import pytest
import torch
from torch import nn

from bcq_exp.algorithm.networks import (
    VAE,
    Actor,
    Critic,
    GaussianActor,
    Perturbation,
    StateCritic,
    concatenated,
)
from bcq_exp.algorithm.output_shapes import check_outputs

OBS_DIM, ACT_DIM = 3, 2
SIZES = {"obs_dim": OBS_DIM, "act_dim": ACT_DIM, "hidden_sizes": (4,)}


class Own(nn.Module):
    """A network whose output has any width, made of observations and actions, if it takes them."""

    def __init__(self, width, *, takes_act=True, pure=False, output=lambda x: x):
        super().__init__()
        self.layer = nn.Linear(OBS_DIM + ACT_DIM * takes_act, width)
        self.pure, self.output = pure, output

    def forward(self, obs, act=None):
        return self.output(self.layer(obs if act is None else concatenated(obs, act)))


class OwnVAE(nn.Module):
    """Decodes to any width from a latent of its own."""

    def __init__(self, width, reconstruct=lambda x: x):
        super().__init__()
        self.decoder, self.reconstruct = nn.Linear(OBS_DIM, width), reconstruct

    def forward(self, obs, act):
        return self.reconstruct(self.decode(obs)), act, act

    def decode(self, obs):
        return self.decoder(obs) + torch.rand(())


@pytest.mark.parametrize("kind", [Actor, GaussianActor, StateCritic, Critic, Perturbation, VAE])
def test_our_own_have_the_shapes_of_their_kind(kind):
    check_outputs(kind(**SIZES), kind, OBS_DIM, ACT_DIM)


@pytest.mark.parametrize(
    ("network", "kind", "message"),
    [
        (Own(1, output=lambda x: x.squeeze(-1)), Critic, r"give the shape \(2,\), not \(2, 1\)"),
        (Own(2, pure=True), Critic, r"give the shape \(2, 3, 2\), not \(2, 3, 1\)"),
        (Own(1, output=lambda x: (x, None)), Critic, "give a tuple, not a tensor"),
        (Own(3, takes_act=False), StateCritic, r"give the shape \(2, 3\), not \(2, 2\)"),
        (Own(2, takes_act=False), GaussianActor, r"give the shape \(2, 2\), not \(2, 4\)"),
        (Own(1, takes_act=False), Actor, r"inputs \(2, 3\) give the shape \(2, 1\), not \(2, 2\)"),
        (Own(1), Perturbation, r"give the shape \(2, 1\), not \(2, 2\)"),
        (OwnVAE(1), VAE, r"give the shape \(2, 1\), not \(2, 2\)"),
        (OwnVAE(2, lambda x: x[:1]), VAE, r"give the shape \(1, 2\), not \(2, 2\)"),
        (Own(2), VAE, "give AttributeError: 'Own' object has no attribute 'decode'"),
        (Own(1, output=lambda x: x @ x), Critic, "give RuntimeError: "),
        (
            Own(1, takes_act=False, pure=True, output=lambda x: x.sum(0)),
            None,
            r"give the shape \(3, 1\)",
        ),
    ],
)
def test_another_shape_is_an_error(network, kind, message):
    with pytest.raises(ValueError, match=message):
        check_outputs(network, kind, OBS_DIM, ACT_DIM)


def test_other_members_and_networks_that_cannot_be_copied_do_no_harm():
    network = Own(1)
    network.decode = nn.Linear(7, 7)
    check_outputs(network, Critic, OBS_DIM, ACT_DIM)
    network.lock = threading.Lock()
    check_outputs(network, Critic, OBS_DIM, ACT_DIM)
    check_outputs(OwnVAE(2), VAE, OBS_DIM, ACT_DIM)
    lazy = nn.Sequential(nn.LazyLinear(ACT_DIM))
    check_outputs(lazy, Actor, OBS_DIM, ACT_DIM)
    assert isinstance(lazy[0], nn.LazyLinear)
    doubles = Critic(**SIZES).double()
    check_outputs(doubles, Critic, OBS_DIM, ACT_DIM, dtype=torch.float64)


def test_networks_of_unknown_kind_are_not_called_unless_they_are_pure():
    network = Own(1, output=lambda x: x @ x)
    check_outputs(network, None, OBS_DIM, ACT_DIM)
    check_outputs(network, Own, OBS_DIM, ACT_DIM)


def test_a_check_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.BatchNorm1d(OBS_DIM), nn.Linear(OBS_DIM, ACT_DIM))

        def forward(self, obs):
            return self.layers(obs) + torch.rand(())

    network = Noisy()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    state = torch.get_rng_state()
    check_outputs(network, Actor, OBS_DIM, ACT_DIM)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert network.training
    check_outputs(nn.Identity(), Actor, ACT_DIM, ACT_DIM)  # without parameters
