"""The networks' own promises."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from bcq_exp.algorithm.networks import VAE, Critic, Perturbation, redrawn
from tests.algorithm.small import ACT_DIM, BOUNDS, OBS_DIM, SIZES, SPACE


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def magnify(network):
    """Weights so large that a tanh or a clamp meets its limits."""
    with torch.no_grad():
        for param in network.parameters():
            param.mul_(30)


def test_the_perturbation_is_at_most_phi_of_half_the_range():
    network = Perturbation(**SIZES, **BOUNDS, phi=0.1)
    act = torch.zeros(200, ACT_DIM)
    magnify(network)
    with torch.no_grad():
        moved = (network(normal(200, OBS_DIM), act) - act).abs().amax(0)
    limit = torch.as_tensor(0.1 * (SPACE.high - SPACE.low) / 2).float()
    assert (moved <= limit * (1 + 1e-6)).all()
    torch.testing.assert_close(moved, limit, rtol=1e-3, atol=0)


def test_a_perturbation_of_phi_zero_changes_nothing():
    network = Perturbation(**SIZES, **BOUNDS, phi=0.0)
    act = normal(20, ACT_DIM).clamp(-1, 1)
    assert torch.equal(network(normal(20, OBS_DIM, seed=1), act), act)


@pytest.mark.parametrize("low, high", [([0.0, 0.0], [1.0, 0.0]), ([-np.inf, 0.0], [1.0, 1.0])])
@pytest.mark.parametrize("network", [Perturbation, VAE])
def test_bounds_are_finite_and_in_order(network, low, high):
    with pytest.raises(ValueError, match="finite with low < high"):
        network(**SIZES, low=low, high=high)


@pytest.mark.parametrize("network", [Perturbation, VAE])
def test_loading_a_state_leaves_the_given_bounds_alone(network):
    low, high = np.full(ACT_DIM, -1.0, np.float32), np.ones(ACT_DIM, np.float32)
    net = network(**SIZES, low=low, high=high)
    net.load_state_dict(network(**SIZES, low=-3.0 * high, high=high).state_dict())
    assert (low == -1).all()


@pytest.mark.parametrize(
    ("network", "name", "value"),
    [
        (Perturbation, "phi", -1),
        (VAE, "latent_dim", 0),
        (VAE, "latent_clip", 0),
        (VAE, "kl_weight", -1),
        (VAE, "kl_warmup", 0),
    ],
)
def test_a_number_out_of_its_range_is_refused(network, name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*, not {value}"):
        network(**SIZES, **BOUNDS, **{name: value})


@pytest.mark.parametrize("network", [Critic, Perturbation])
def test_one_observation_broadcasts_against_many_actions(network):
    torch.manual_seed(0)
    net = network(**SIZES)
    obs, act = normal(4, OBS_DIM), normal(4, 3, ACT_DIM)
    together = net(obs.unsqueeze(1), act)
    for i in range(4):
        for j in range(3):
            torch.testing.assert_close(together[i, j], net(obs[i], act[i, j]))


def test_decoded_actions_fill_the_range_and_no_more():
    torch.manual_seed(0)
    vae = VAE(**SIZES, **BOUNDS)
    magnify(vae)
    with torch.no_grad():
        act = vae.decode(normal(500, OBS_DIM), normal(500, 4, seed=1)).numpy()
    at_edge = np.isclose(act, SPACE.low, atol=1e-3) | np.isclose(act, SPACE.high, atol=1e-3)
    assert at_edge.any(0).all()
    assert ((act >= SPACE.low - 1e-6) & (act <= SPACE.high + 1e-6)).all()


def test_latents_that_are_drawn_are_clipped():
    torch.manual_seed(0)
    vae = VAE(**SIZES, **BOUNDS, latent_clip=0.2)
    obs = normal(500, OBS_DIM)
    torch.manual_seed(3)
    act = vae.decode(obs)
    torch.manual_seed(3)
    assert torch.equal(act, vae.decode(obs, torch.randn(500, 4).clamp(-0.2, 0.2)))


def test_the_latent_is_twice_the_action_unless_given():
    assert VAE(**SIZES, **BOUNDS).latent_dim == 2 * ACT_DIM
    assert VAE(**SIZES, **BOUNDS, latent_dim=7).latent_dim == 7


def test_the_log_of_the_standard_deviation_is_clamped():
    torch.manual_seed(0)
    vae = VAE(**SIZES, **BOUNDS)
    magnify(vae)
    with torch.no_grad():
        _, _, std = vae(normal(500, OBS_DIM), normal(500, ACT_DIM, seed=1))
    assert std.log().min().item() == pytest.approx(-4, rel=1e-5)
    assert std.log().max().item() == pytest.approx(15, rel=1e-5)


def test_the_reconstruction_decodes_mean_plus_std_times_noise():
    torch.manual_seed(0)
    vae = VAE(**SIZES, **BOUNDS)
    obs, act, eps = normal(5, OBS_DIM), normal(5, ACT_DIM, seed=1), normal(5, 4, seed=2)
    recon, mean, std = vae(obs, act, eps)
    torch.testing.assert_close(recon, vae.decode(obs, mean + std * eps))


def test_a_redrawn_network_is_the_same_in_any_dtype():
    torch.manual_seed(0)
    network = Critic(**SIZES)
    drawn = []
    for source in (network, deepcopy(network).double()):
        torch.manual_seed(1)
        drawn.append(redrawn(source).double())
    for single, double, old in zip(
        *(d.parameters() for d in drawn), network.parameters(), strict=True
    ):
        assert torch.equal(single, double)
        assert not torch.equal(single.float(), old)


def test_layers_of_constant_initial_values_do_not_keep_the_others_from_being_redrawn():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    drawn = redrawn(network)
    assert torch.equal(drawn[1].weight, network[1].weight)
    assert not torch.equal(drawn[0].weight, network[0].weight)
