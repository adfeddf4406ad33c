"""Times d3rlpy's BCQ step with its own replay buffer, as its fitter drives it, without its logger.

.venv-peers/bin/python -m tests.bench.peers.d3rlpy_step --size paper
"""

from __future__ import annotations

import d3rlpy
import torch
from d3rlpy.algos import BCQ, BCQConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.models.encoders import VectorEncoderFactory

from tests.bench import synthetic, timing
from tests.bench.arguments import parse
from tests.bench.sizes import Sizes


def build(sizes: Sizes) -> tuple[BCQ, MDPDataset]:
    """The algorithm at our sizes, and its data (actions in [-1, 1], as its networks have them)."""
    data = synthetic.transitions(sizes)
    dataset = MDPDataset(
        observations=data["obs"],
        actions=data["act"] / sizes.max_action,
        rewards=data["rew"],
        terminals=data["terminated"],
        timeouts=data["truncated"],
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
        action_size=sizes.act_dim,
    )
    encoder = VectorEncoderFactory(list(sizes.hidden))
    config = BCQConfig(
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        imitator_encoder_factory=VectorEncoderFactory(list(sizes.vae_hidden)),
        batch_size=sizes.batch,
        n_action_samples=sizes.num_sampled_action,
    )
    algorithm = config.create(device="cpu:0")
    algorithm.build_with_dataset(dataset)
    return algorithm, dataset


def main() -> None:
    args = parse(__doc__)
    d3rlpy.seed(0)
    algorithm, dataset = build(args.sizes)

    def advance(num_steps: int) -> None:
        for _ in range(num_steps):
            algorithm.update(dataset.sample_transition_batch(args.sizes.batch))

    figures = timing.steady_rate(advance, args.seconds)
    timing.report(**figures, threads=torch.get_num_threads(), peak_mib=timing.peak_mib())


if __name__ == "__main__":
    main()
