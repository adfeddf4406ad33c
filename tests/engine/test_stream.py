"""A run's random numbers follow from its seed and the step, and nothing else."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from bcq_exp.algorithm.bcq import Noise
from bcq_exp.engine.stream import (
    BLOCK_STEPS,
    DeviceStream,
    HostStream,
    generator,
    init_seed,
)

SIZES = {"num_rows": 50, "batch_size": 4}
NAMES = ("indices", *Noise._fields)


@pytest.fixture(params=["host", "device"])
def stream(request):
    """Makes streams: where numbers are drawn, each rule holds."""

    def make(seed=0, n=3, latent_dim=2, **sizes):
        sizes = {**SIZES, **sizes}
        size = sizes["batch_size"]
        sizes["noise"] = Noise((size, latent_dim), (size, n, latent_dim), (size, latent_dim))
        if request.param == "host":
            return HostStream(seed=seed, **sizes)
        return DeviceStream(seed=seed, **sizes, device=torch.device("cpu"))

    return make


def drawn(block, name):
    return getattr(block if name == "indices" else block.noise, name)


def same(one, other, names=NAMES):
    return all(torch.equal(drawn(one, name), drawn(other, name)) for name in names)


def test_a_block_does_not_depend_on_those_drawn_before_or_on_global_generators(stream):
    expected = stream().block(5)
    used = stream()
    for index in (9, 0, 2):
        used.block(index)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(used.block(5), expected)
    assert same(stream().block(5), expected)


def test_drawing_leaves_global_generators_alone(stream):
    numpys, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
    stream().block(0)
    init_seed(0)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


def test_seeds_blocks_and_purposes_all_differ(stream):
    blocks = [stream(seed).block(index) for seed in (0, 1) for index in (0, 1)]
    numbers = [drawn(b, name).ravel()[:32].tolist() for b in blocks for name in NAMES]
    assert len({tuple(x) for x in numbers}) == len(numbers)
    assert len({init_seed(seed) for seed in range(100)}) == 100


@pytest.mark.parametrize("n", [1, 20])
def test_the_sampled_action_count_changes_its_own_noise_only(stream, n):
    expected, block = stream().block(2), stream(n=n).block(2)
    assert same(block, expected, ("indices", "vae_eps", "actor"))
    assert block.noise.target.shape == (BLOCK_STEPS, 4, n, 2)


def test_the_latents_width_leaves_the_indices_alone(stream):
    assert same(stream(latent_dim=7).block(2), stream().block(2), ("indices",))


def test_indices_are_uniform_over_all_rows(stream):
    indices = stream(batch_size=500).block(0).indices
    counts = np.bincount(indices.ravel(), minlength=50)
    mean = indices.numel() / 50
    assert len(counts) == 50
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


def test_noise_is_standard_normal(stream):
    block = stream(batch_size=500).block(0)
    for name in NAMES[1:]:
        noise = drawn(block, name).numpy()
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert noise.std() == pytest.approx(1, abs=5 / np.sqrt(noise.size))


def test_purposes_have_generators_of_their_own():
    values = [generator(0, p, i).random() for p in ("rows", "init", "actor") for i in (0, 1)]
    assert len(set(values)) == 6
    assert generator(0, "rows").random() == generator(0, "rows", 0).random()


def test_noise_of_any_name_has_a_stream_of_its_own():
    class Named(NamedTuple):
        policy_smoothing_of_the_target: tuple[int, ...]
        policy_smoothing_of_the_actor: tuple[int, ...]

    block = HostStream(seed=0, num_rows=5, batch_size=4, noise=Named((4, 2), (4, 2))).block(0)
    assert not torch.equal(*block.noise)


def test_noise_named_as_the_rows_is_refused():
    class Taken(NamedTuple):
        rows: tuple[int, ...]

    with pytest.raises(ValueError, match="noise named rows: this name is reserved"):
        HostStream(seed=0, num_rows=5, batch_size=4, noise=Taken((4,)))
