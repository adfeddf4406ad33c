"""The training step agrees with the authors' own code to 1e-9, every parameter, every step."""

import pytest
import torch

from tests.golden.replay import NAMES, Golden


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_after_every_step(name):
    golden = Golden(name)
    bcq = golden.bcq()
    for step in range(golden.first_step, golden.first_step + golden.steps):
        statistics = bcq.gradient_step(golden.batch(step), golden.noise(step))
        for loss, expected in golden.losses(step).items():
            assert statistics[loss].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), loss
        for module, expected in golden.networks(bcq, f"after{step}"):
            actual = module.state_dict()
            for key, value in expected.items():
                torch.testing.assert_close(actual[key], value, rtol=1e-9, atol=1e-11)
