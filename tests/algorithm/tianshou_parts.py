"""Tianshou's own parts in our BCQ: what test_tianshou.py runs in the peers' environment.

.venv-peers/bin/python -m tests.algorithm.tianshou_parts
"""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm.optim import (
    AdamOptimizerFactory,
    LRSchedulerFactoryLinear,
    OptimizerFactory,
    RMSpropOptimizerFactory,
    TorchOptimizerFactory,
)
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.net.common import MLP, Net
from tianshou.utils.net.continuous import VAE, ContinuousCritic, Perturbation
from torch import Tensor, nn

import bcq_exp
from bcq_exp.algorithm.optim import optimizer_for
from tests.algorithm.minimizing import minimize

OBS, ACT, LATENT, HIDDEN, HIGH = 3, 2, 4, (16, 16), 2.0
SPACE = gym.spaces.Box(-HIGH, HIGH, (ACT,), np.float32)


def critic() -> ContinuousCritic:
    net = Net(state_shape=(OBS,), action_shape=(ACT,), hidden_sizes=HIDDEN, concat=True)
    return ContinuousCritic(preprocess_net=net)


def vae() -> VAE:
    return VAE(
        encoder=MLP(input_dim=OBS + ACT, hidden_sizes=HIDDEN),
        decoder=MLP(input_dim=OBS + LATENT, output_dim=ACT, hidden_sizes=HIDDEN),
        hidden_dim=HIDDEN[-1],
        latent_dim=LATENT,
        max_action=HIGH,
    )


def perturbation(of_mlp: bool = False) -> Perturbation:
    if of_mlp:  # as in Tianshou's example
        net: nn.Module = MLP(input_dim=OBS + ACT, output_dim=ACT, hidden_sizes=HIDDEN)
    else:
        net = Net(state_shape=(OBS + ACT,), action_shape=(ACT,), hidden_sizes=HIDDEN)
    return Perturbation(preprocess_net=net, max_action=HIGH, phi=0.3)


def policy(of_mlp: bool = False) -> bcq_exp.BCQPolicy:
    return bcq_exp.BCQPolicy(
        actor_perturbation=perturbation(of_mlp),
        critic=critic(),
        vae=vae(),
        action_space=SPACE,
        forward_sampled_times=5,
    )


def copy_linears(source: nn.Module, target: nn.Module) -> None:
    """The linear layers of one into those of the other, in order."""
    pairs = [[m for m in net.modules() if type(m) is nn.Linear] for net in (source, target)]
    for one, other in zip(*pairs, strict=True):
        other.load_state_dict(one.state_dict())


def ours_with_the_weights_of(theirs: bcq_exp.BCQPolicy) -> bcq_exp.BCQPolicy:
    sizes = {"obs_dim": OBS, "act_dim": ACT, "hidden_sizes": HIDDEN}
    bounds = {"low": -HIGH, "high": HIGH}
    made = bcq_exp.BCQPolicy(
        actor_perturbation=bcq_exp.Perturbation(**sizes, **bounds, phi=0.3),
        critic=bcq_exp.Critic(**sizes),
        vae=bcq_exp.VAE(**sizes, **bounds, latent_dim=LATENT),
        action_space=SPACE,
        forward_sampled_times=5,
    )
    copy_linears(theirs.actor_perturbation, made.actor_perturbation)
    copy_linears(theirs.critic, made.critic)
    copy_linears(theirs.vae.decoder, made.vae.decoder)
    return made


def buffer(size: int = 200) -> ReplayBuffer:
    rng = np.random.default_rng(0)
    ends = np.arange(size) % 20 == 19
    return ReplayBuffer.from_data(
        obs=rng.normal(size=(size, OBS)).astype(np.float32),
        act=rng.uniform(-HIGH, HIGH, (size, ACT)).astype(np.float32),
        rew=rng.normal(size=size),
        terminated=np.zeros(size, bool),
        truncated=ends,
        done=ends,
        obs_next=rng.normal(size=(size, OBS)).astype(np.float32),
    )


def snapshot(module: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in module.parameters()]


def loss(network: nn.Module) -> Tensor:
    return network(torch.ones(4, OBS), torch.ones(4, ACT)).square().mean()


def a_policy_acts_as_ours_with_the_same_weights() -> None:
    theirs = policy()
    ours = ours_with_the_weights_of(theirs)
    obs = torch.randn(7, OBS)
    acts = [
        p(Batch(obs=obs, info={}), generator=torch.Generator().manual_seed(3)).act
        for p in (theirs, ours)
    ]
    np.testing.assert_allclose(*acts, rtol=1e-4, atol=1e-6)
    assert acts[0].shape == (7, ACT)


def a_perturbation_of_an_mlp_moves_every_row_as_the_first() -> None:
    """Tianshou's fault, of which the documentation warns; with a Net each row has its own."""
    obs, act = torch.randn(5, OBS), torch.zeros(5, ACT)
    with torch.no_grad():
        rows = [len(set(map(tuple, perturbation(m)(obs, act).tolist()))) for m in (True, False)]
    assert rows == [1, 5], rows


def updates_train_every_network() -> None:
    adam = AdamOptimizerFactory(lr=1e-3)
    for critic2 in (None, critic()):
        made = bcq_exp.BCQ(
            policy=policy(),
            actor_perturbation_optim=adam,
            critic_optim=RMSpropOptimizerFactory(lr=1e-3),
            vae_optim=TorchOptimizerFactory(torch.optim.SGD, lr=1e-2, momentum=0.9),
            critic2=critic2,
        )
        networks = {
            "actor_perturbation": made.policy.actor_perturbation,
            "critic": made.policy.critic,
            "critic2": made.critic2,
            "vae": made.policy.vae,
            "actor_perturbation_target": made.actor_perturbation_target,
            "critic_target": made.critic_target,
            "critic2_target": made.critic2_target,
        }
        before = {name: snapshot(network) for name, network in networks.items()}
        replay = buffer()
        stats = [made.update(buffer=replay, sample_size=32) for _ in range(100)]
        for name, network in networks.items():
            for old, new in zip(before[name], network.parameters(), strict=True):
                assert not torch.equal(old, new), name
        assert all(np.isfinite(list(s.losses().values())).all() for s in stats)
        vae_losses = [s.vae_loss for s in stats]
        assert np.mean(vae_losses[-10:]) < np.mean(vae_losses[:10])


def optimizers_step_as_tianshou_steps_them(theirs: OptimizerFactory) -> None:
    theirs.with_lr_scheduler_factory(LRSchedulerFactoryLinear(1, 8, 1))
    ours, reference = critic(), critic()
    reference.load_state_dict(ours.state_dict())
    optimizer = optimizer_for(ours, theirs)
    plain, scheduler = theirs.create_instances(reference)
    rates = []
    for step in range(6):
        if step == 3:  # as from a file
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = optimizer_for(ours, theirs)
            optimizer.load_state_dict(state)
        rates.append(optimizer.lr)
        minimize(optimizer, loss(ours))
        plain.zero_grad()
        loss(reference).backward()
        plain.step()
        scheduler.step()
    assert all(map(torch.equal, snapshot(ours), snapshot(reference)))
    np.testing.assert_allclose(rates, [1e-2 * (1 - step / 8) for step in range(6)])


if __name__ == "__main__":
    torch.manual_seed(0)
    a_policy_acts_as_ours_with_the_same_weights()
    a_perturbation_of_an_mlp_moves_every_row_as_the_first()
    updates_train_every_network()
    optimizers_step_as_tianshou_steps_them(AdamOptimizerFactory(lr=1e-2))
    optimizers_step_as_tianshou_steps_them(RMSpropOptimizerFactory(lr=1e-2, momentum=0.5))
    print("all of Tianshou's parts work")
