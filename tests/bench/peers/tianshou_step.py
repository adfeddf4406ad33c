"""Times Tianshou's BCQ step, networks as in its examples/offline/offline_bcq.py, its own buffer.

.venv-peers/bin/python -m tests.bench.peers.tianshou_step --size paper
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import BCQ
from tianshou.algorithm.imitation.bcq import BCQPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import ReplayBuffer
from tianshou.utils.net.common import MLP, Net
from tianshou.utils.net.continuous import VAE, ContinuousCritic, Perturbation
from tianshou.utils.torch_utils import policy_within_training_step

from tests.bench import synthetic, timing
from tests.bench.arguments import parse
from tests.bench.sizes import Sizes


def build(sizes: Sizes) -> BCQ:
    """The algorithm as its example builds it, at our sizes."""
    obs_dim, act_dim = sizes.obs_dim, sizes.act_dim

    def critic() -> ContinuousCritic:
        net = Net(
            state_shape=(obs_dim,), action_shape=(act_dim,), hidden_sizes=sizes.hidden, concat=True
        )
        return ContinuousCritic(preprocess_net=net)

    net = MLP(input_dim=obs_dim + act_dim, output_dim=act_dim, hidden_sizes=sizes.hidden)
    vae = VAE(
        encoder=MLP(input_dim=obs_dim + act_dim, hidden_sizes=sizes.vae_hidden),
        decoder=MLP(
            input_dim=obs_dim + sizes.latent_dim, output_dim=act_dim, hidden_sizes=sizes.vae_hidden
        ),
        hidden_dim=sizes.vae_hidden[-1],
        latent_dim=sizes.latent_dim,
        max_action=sizes.max_action,
    )
    policy = BCQPolicy(
        actor_perturbation=Perturbation(preprocess_net=net, max_action=sizes.max_action),
        critic=critic(),
        vae=vae,
        action_space=gym.spaces.Box(-sizes.max_action, sizes.max_action, (act_dim,), np.float32),
    )
    adam = AdamOptimizerFactory(lr=1e-3)
    return BCQ(
        policy=policy,
        critic2=critic(),
        actor_perturbation_optim=adam,
        critic_optim=adam,
        vae_optim=adam,
        num_sampled_action=sizes.num_sampled_action,
    )


def main() -> None:
    args = parse(__doc__)
    torch.manual_seed(0)
    data = synthetic.transitions(args.sizes)
    buffer = ReplayBuffer.from_data(**data, done=data["terminated"] | data["truncated"])
    algorithm = build(args.sizes)

    def advance(num_steps: int) -> None:
        for _ in range(num_steps):
            algorithm.update(buffer=buffer, sample_size=args.sizes.batch)

    with policy_within_training_step(algorithm.policy):
        figures = timing.steady_rate(advance, args.seconds)
    timing.report(**figures, threads=torch.get_num_threads(), peak_mib=timing.peak_mib())


if __name__ == "__main__":
    main()
