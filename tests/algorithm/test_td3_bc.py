"""TD3+BC: its steps against the paper's equations, alone, stacked and as a run."""

import copy

import pytest
import torch
from gymnasium.spaces import Box

from bcq_exp.algorithm.networks import Actor, Critic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.td3_bc import TD3BC, Smoothing
from bcq_exp.training.record import RunRecord
from tests.algorithm.loops import assert_same_parameters, descend, follow
from tests.algorithm.small import BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs
from tests.commands import ANY_ALGORITHM, algorithm_of, compose, fit
from tests.same import assert_same_run

NUMBERS = {"alpha": 1.7, "policy_noise": 0.4, "noise_clip": 0.5, "tau": 0.03, "gamma": 0.9}


def make_td3_bc(seed=0, lr=1e-2, **numbers):
    torch.manual_seed(seed)
    policy = DeterministicPolicy(actor=Actor(**SIZES, **BOUNDS).double(), action_space=SPACE)
    adam = AdamOptimizerFactory(lr=lr)
    return TD3BC(
        policy=policy,
        critic=Critic(**SIZES).double(),
        actor_optim=adam,
        critic_optim=adam,
        smoothing=Smoothing(**BOUNDS).double(),
        **{**NUMBERS, **numbers},
    )


class Reference:
    """The paper's pseudocode, transition by transition; Adam is torch's."""

    def __init__(self, algorithm, lr=1e-2, alpha=1.7, sigma=0.4, c=0.5, tau=0.03, gamma=0.9):
        self.alpha, self.sigma, self.c, self.tau, self.gamma = alpha, sigma, c, tau, gamma
        self.actor = copy.deepcopy(algorithm.policy.actor)
        self.critics = [copy.deepcopy(algorithm.critic), copy.deepcopy(algorithm.critic2)]
        self.actor_target = copy.deepcopy(self.actor)
        self.critic_targets = copy.deepcopy(self.critics)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=lr)
        both = [p for critic in self.critics for p in critic.parameters()]
        self.critic_adam = torch.optim.Adam(both, lr=lr)
        self.it = 0

    def smoothed(self, obs, normal):
        act = []
        for mu, x, low, high in zip(
            self.actor_target(obs).tolist(), normal.tolist(), SPACE.low, SPACE.high, strict=True
        ):
            noise = max(-self.c, min(self.c, self.sigma * x)) * (high - low) / 2
            act.append(max(low, min(high, mu + noise)))
        return torch.tensor(act, dtype=torch.float64)

    def train(self, batch, normals):
        self.it += 1
        size = len(batch.rew)
        losses = [0.0, 0.0]
        for i in range(size):
            next_obs = batch.obs_next[i]
            with torch.no_grad():
                next_act = self.smoothed(next_obs, normals[i])
                q = min(target(next_obs, next_act).item() for target in self.critic_targets)
            y = batch.rew[i].item()
            if not batch.terminated[i]:
                y += self.gamma * q
            for k, critic in enumerate(self.critics):
                error = critic(batch.obs[i], batch.act[i])[0] - y
                losses[k] = losses[k] + error * error / size
        descend(self.critic_adam, losses[0] + losses[1])
        metrics = {"critic1_loss": losses[0].item(), "critic2_loss": losses[1].item()}
        if self.it % 2:
            return metrics

        pis = [self.actor(obs) for obs in batch.obs]
        values = [self.critics[0](o, pi)[0] for o, pi in zip(batch.obs, pis, strict=True)]
        lmbda = self.alpha / (sum(abs(q.item()) for q in values) / size)
        loss = 0.0
        for q, pi, act in zip(values, pis, batch.act, strict=True):
            loss = loss - lmbda * q / size
            for predicted, recorded in zip(pi, act, strict=True):
                loss = loss + (predicted - recorded) ** 2 / batch.act.numel()
        descend(self.actor_adam, loss)
        targets = (self.actor_target, *self.critic_targets)
        follow(targets, (self.actor, *self.critics), self.tau)
        return {**metrics, "actor_loss": loss.item(), "lambda": lmbda}


def test_steps_are_the_papers():
    algorithm = make_td3_bc()
    reference = Reference(algorithm)
    for step in range(6):
        batch = make_batch(seed=step)
        noise = algorithm.draw_noise(6)
        metrics = algorithm.gradient_step(batch, noise)
        expected = reference.train(batch, noise.smoothing)
        assert ("actor_loss" in metrics) is (step % 2 == 1)
        for name, value in expected.items():
            assert metrics[name].item() == pytest.approx(value, rel=1e-10), (step, name)
        theirs = (
            reference.actor,
            *reference.critics,
            reference.actor_target,
            *reference.critic_targets,
        )
        *ours, _ = algorithm.networks
        assert_same_parameters(ours, theirs)


@pytest.mark.parametrize("same", [True, False], ids=["same numbers", "other numbers"])
def test_a_stack_steps_as_its_runs_do_alone(same):
    def numbers(k):
        if same:
            return {}
        return {
            "alpha": 0.5 * (1 + k),
            "policy_noise": 0.1 * (1 + k),
            "noise_clip": 0.2 * (1 + k),
            "tau": 0.01 * (1 + k),
            "gamma": 0.9 + 0.03 * k,
        }

    assert_a_stack_is_its_runs(lambda k: make_td3_bc(k, lr=1e-2 * (1 + k), **numbers(k)), 3)


def test_smoothed_actions_stay_in_the_range():
    smoothing = Smoothing(**BOUNDS).double()
    act = torch.tensor([[-1.0, 3.0], [0.0, 0.5]], dtype=torch.float64)
    normal = torch.tensor([[-9.0, 9.0], [9.0, -1.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 3.0], [0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(smoothing(act, normal, 0.2, 0.5), expected)


def test_the_statistics_of_an_update_are_those_of_its_step():
    algorithm = make_td3_bc()
    first, second = (algorithm.update_with_batch(make_batch(seed=k)) for k in range(2))
    assert first.actor_loss is None and "actor_loss" not in first.smoothed_loss
    assert second.smoothed_loss["actor_loss"] == second.actor_loss
    assert second.smoothed_loss["critic1_loss"] == pytest.approx(
        (first.critic1_loss + second.critic1_loss) / 2
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", -1), ("policy_noise", -1), ("noise_clip", -1), ("tau", 0), ("gamma", 2)],
)
def test_a_number_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        make_td3_bc(**{name: value})


def test_the_choice_is_the_papers():
    cfg = compose("algo=td3_bc")
    algo = {key: value for key, value in cfg.algo.items() if key != "_target_"}
    assert algo == {
        "alpha": 2.5,
        "policy_noise": 0.2,
        "noise_clip": 0.5,
        "tau": 0.005,
        "gamma": 0.99,
    }
    assert cfg.actor_optim.lr == cfg.critic_optim.lr == 3e-4
    assert cfg.policy.action_scaling
    spaces = (Box(-1.0, 1.0, (3,)), Box(-2.0, 2.0, (1,)))
    built = algorithm_of(cfg, *spaces)
    assert (built.smoothing.low, built.smoothing.high) == (-1.0, 1.0)


@pytest.mark.slow
def test_a_run_resumes_bitwise(tmp_path):
    cfg = ("algo=td3_bc", *ANY_ALGORITHM)
    fit(tmp_path / "straight", *cfg)
    fit(tmp_path / "two", *cfg, "trainer.num_steps=30")
    fit(tmp_path / "two", *cfg)
    assert_same_run(tmp_path / "two", tmp_path / "straight")
    rows = RunRecord(tmp_path / "two").rows("train")
    assert list(rows[0])[1:4] == ["actor_loss", "critic1_loss", "critic2_loss"]
