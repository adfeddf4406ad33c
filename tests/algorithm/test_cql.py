"""CQL: its step against the paper's equations, alone and stacked."""

import copy
import math
from statistics import NormalDist

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from bcq_exp.algorithm.cql import CQL, EntropyCoefficient, policy_sample, uniform_sample
from bcq_exp.algorithm.networks import Critic, GaussianActor, SquashedMean, UnitActions
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import GaussianPolicy
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import ACT_DIM, BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs
from tests.commands import algorithm_of, compose

NUMBERS = {"cql_alpha": 0.7, "tau": 0.03, "gamma": 0.9}
N = 3  # sampled actions


def make_cql(seed=0, lr=1e-2, **numbers):
    torch.manual_seed(seed)
    actor = GaussianActor(**SIZES).double()
    mean = SquashedMean(actor, UnitActions(**BOUNDS).double())
    adam = AdamOptimizerFactory(lr=lr)
    return CQL(
        policy=GaussianPolicy(actor=mean, action_space=SPACE),
        critic=Critic(**SIZES).double(),
        alpha=EntropyCoefficient().double(),
        actor_optim=adam,
        critic_optim=adam,
        **{**NUMBERS, "num_sampled_action": N, **numbers},
    )


def scaled(unit):
    """An action of [-1, 1] in its range."""
    low, high = (torch.tensor(x) for x in (SPACE.low, SPACE.high))
    return (low + high) / 2 + (high - low) / 2 * unit


class Reference:
    """Soft actor-critic with CQL(H), state by state; Adam and densities are torch's."""

    def __init__(self, algorithm, deterministic_backup, lr=1e-2):
        self.deterministic_backup = deterministic_backup
        self.actor = copy.deepcopy(algorithm.policy.actor.gaussian)
        self.critics = [copy.deepcopy(algorithm.critic), copy.deepcopy(algorithm.critic2)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=lr)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=lr)
        self.critic_adams = [torch.optim.Adam(c.parameters(), lr=lr) for c in self.critics]

    def pi(self, obs, eps):
        """One action in [-1, 1], and its log density by torch's transformed distribution."""
        mean, log_std = self.actor(obs)[:ACT_DIM], self.actor(obs)[ACT_DIM:]
        std = log_std.clamp(-20, 2).exp()
        squashed = TransformedDistribution(Normal(mean, std), TanhTransform(cache_size=1))
        act = torch.tanh(mean + std * eps)
        return act, Independent(squashed, 1).log_prob(act)

    def train(self, batch, noise):
        size, metrics = len(batch.rew), {}
        drawn = [self.pi(obs, eps) for obs, eps in zip(batch.obs, noise.actor, strict=True)]
        loss = 0.0
        for _, log_pi in drawn:
            loss = loss - self.log_alpha * (log_pi.item() - ACT_DIM) / size
        metrics["alpha_loss"] = loss.item()
        descend(self.alpha_adam, loss)
        metrics["alpha"] = alpha = math.exp(self.log_alpha.item())
        metrics["entropy"] = -sum(log_pi.item() for _, log_pi in drawn) / size

        pi_loss = 0.0
        for obs, (act, log_pi) in zip(batch.obs, drawn, strict=True):
            q = min(critic(obs, scaled(act))[0] for critic in self.critics)
            pi_loss = pi_loss + (alpha * log_pi - q) / size
        metrics["actor_loss"] = pi_loss.item()

        critic_losses = [0.0, 0.0]
        for i in range(size):
            obs, obs_next = batch.obs[i], batch.obs_next[i]
            sampled = []
            for z in noise.uniform[i]:
                unit = [2 * NormalDist().cdf(x) - 1 for x in z.tolist()]
                sampled.append((torch.tensor(unit, dtype=torch.float64), math.log(0.5**ACT_DIM)))
            with torch.no_grad():
                sampled += [self.pi(obs, eps) for eps in noise.policy[i]]
                sampled += [self.pi(obs_next, eps) for eps in noise.policy_next[i]]
                act_next, log_pi_next = self.pi(obs_next, noise.target[i])
                q = min(target(obs_next, scaled(act_next)).item() for target in self.targets)
            if not self.deterministic_backup:
                q -= alpha * log_pi_next.item()
            y = batch.rew[i].item() + (0 if batch.terminated[i] else NUMBERS["gamma"] * q)
            for k, critic in enumerate(self.critics):
                q_data, total = critic(obs, batch.act[i])[0], 0.0
                for act, log_density in sampled:
                    total = total + torch.exp(critic(obs, scaled(act))[0]) / math.exp(log_density)
                gap = torch.log(total) - q_data
                loss = (q_data - y) ** 2 + NUMBERS["cql_alpha"] * gap
                critic_losses[k] = critic_losses[k] + loss / size

        descend(self.actor_adam, pi_loss)
        for k, loss in enumerate(critic_losses):
            metrics[f"critic{k + 1}_loss"] = descend(self.critic_adams[k], loss)
        follow(self.targets, self.critics, NUMBERS["tau"])
        return metrics


@pytest.mark.parametrize("deterministic_backup", [True, False])
def test_steps_are_the_papers(deterministic_backup):
    algorithm = make_cql(deterministic_backup=deterministic_backup)
    reference = Reference(algorithm, deterministic_backup)
    for step in range(5):
        batch, noise = make_batch(seed=step), algorithm.draw_noise(6)
        metrics = algorithm.gradient_step(batch, noise)
        for name, expected in reference.train(batch, noise).items():
            assert metrics[name].item() == pytest.approx(expected, rel=1e-9), (step, name)
        *ours, _, _ = algorithm.networks
        theirs = (reference.actor, *reference.critics, *reference.targets)
        assert_same_parameters(ours, theirs, rtol=1e-8, atol=1e-11)
        assert algorithm.alpha().item() == pytest.approx(reference.log_alpha.item(), rel=1e-9)


@pytest.mark.parametrize("same", [True, False], ids=["same numbers", "other numbers"])
def test_a_stack_steps_as_its_runs_do_alone(same):
    def numbers(k):
        if same:
            return {}
        return {
            "cql_alpha": 0.5 * k,
            "deterministic_backup": k % 2 == 0,
            "tau": 0.01 * (1 + k),
            "gamma": 0.9 + 0.03 * k,
        }

    assert_a_stack_is_its_runs(lambda k: make_cql(k, lr=1e-2 * (1 + k), **numbers(k)), 3)


def test_uniform_actions_fill_their_range_evenly():
    normal = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
    found = uniform_sample(UnitActions(**BOUNDS).double(), normal)
    for column, low, high in zip(found.act.T, SPACE.low, SPACE.high, strict=True):
        share = (column.sort().values - low) / (high - low)
        even = torch.linspace(0, 1, len(share), dtype=torch.float64)
        assert (share - even).abs().max() < 0.015  # Kolmogorov-Smirnov
    assert found.log_prob.unique().item() == pytest.approx(-2 * math.log(2))


def test_the_density_of_an_action_at_its_bound_is_finite():
    parameters = torch.tensor([[30.0, -30.0, -1.0, -1.0]], dtype=torch.float64)
    eps = torch.zeros(1, 2, dtype=torch.float64)
    found = policy_sample(lambda obs: parameters, UnitActions(low=-1, high=1), parameters, eps)
    # log(1 - tanh(x)^2) is log 4 - 2 |x| for large |x|
    expected = 2 * (1 - math.log(2 * math.pi) / 2 - (math.log(4) - 60))
    assert found.act.tolist() == [[1, -1]]
    assert found.log_prob.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [("cql_alpha", -1), ("num_sampled_action", 0), ("tau", 0), ("gamma", 2)],
)
def test_a_number_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        make_cql(**{name: value})


def test_the_choice_is_the_authors():
    cfg = compose("algo=cql")
    algo = {key: value for key, value in cfg.algo.items() if key != "_target_"}
    assert algo == {
        "cql_alpha": 5.0,
        "num_sampled_action": 10,
        "deterministic_backup": True,
        "tau": 0.005,
        "gamma": 0.99,
    }
    assert (cfg.actor_optim.lr, cfg.critic_optim.lr) == (1e-4, 3e-4)
    assert cfg.policy.action_scaling
    built = algorithm_of(cfg, SPACE, SPACE)
    assert built.optimizers["alpha"].lr == 1e-4
    assert built.policy.actor.unit.low.tolist() == [-1, -1]
    assert built.noise_shapes(4).uniform == (4, 10, 2)
    kinds = [(watch.kind, watch.diverging) for watch in built.watches]
    assert kinds == [("diverging Q", True), ("diverging entropy coefficient", True)]
