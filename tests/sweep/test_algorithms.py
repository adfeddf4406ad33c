"""Several algorithms in one sweep; groups that one of them does not read are refused."""

import pytest

from bcq_exp.analysis import load_runs
from bcq_exp.analysis.report import page_data
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_ALGORITHM
from tests.forked import forked

COMMON = (
    *ANY_ALGORITHM,
    "trainer.num_steps=20",
    "trainer.eval_every=10",
    "trainer.eval_episodes=1",
)
NAMES = {
    "bcq": "BCQ",
    "bc": "BC",
    "vae_bc": "VAEBC",
    "ddpg": "DDPG",
    "dqn": "DQN",
    "td3_bc": "TD3BC",
    "iql": "IQL",
    "cql": "CQL",
}
EVERY = f"algo={','.join(NAMES)}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    home = tmp_path_factory.mktemp("algorithms")
    done = forked("-m", *COMMON, EVERY, "seed=0,1", "name=s", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "16 runs, 16 to train in 8 groups of 2" in done.stdout
    return home / "multirun" / "s"


def test_each_is_trained_as_what_it_is(swept):
    columns = {}
    for algo, name in NAMES.items():
        record = RunRecord(swept / f"algo={algo},seed=0")
        assert record.summary()["algorithm"] == name
        columns[algo] = list(record.rows("train")[0])
        assert len(record.rows("eval")) == 2
    assert columns["bc"] == ["step", "actor_loss"]
    assert columns["bcq"][:5] == ["step", "actor_loss", "critic1_loss", "critic2_loss", "vae_loss"]
    assert columns["td3_bc"][:4] == ["step", "actor_loss", "critic1_loss", "critic2_loss"]
    losses = ["step", "actor_loss", "critic1_loss", "critic2_loss"]
    assert columns["iql"][:5] == [*losses, "value_loss"]
    assert columns["cql"][:5] == [*losses, "alpha_loss"]
    assert columns["ddpg"] == ["step", "actor_loss", "critic_loss", "q_mean", "target_q_mean"]


def test_one_report_compares_them(swept):
    runs = load_runs(swept)
    assert runs.keys == ("algo",)
    assert set(runs.groups()) == {f"algo={name}" for name in NAMES.values()}
    data = page_data(ComparedRuns(runs), swept)
    of = {run["name"]: curves for run, curves in zip(data["runs"], data["training"], strict=True)}
    assert set(of["algo=bc,seed=0"]) == {"step", "wall_time", "actor_loss"}
    assert {"critic1_loss", "kl_loss"} <= set(of["algo=bcq,seed=0"])


@pytest.mark.slow
def test_the_same_command_again_is_done_at_once(swept):
    home = swept.parents[1]
    done = forked("-m", *COMMON, EVERY, "seed=0,1", "name=s", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "16 complete, 0 to train" in done.stdout


REFUSED = {
    ("algo=bc", "vae.latent_dim=3"): "vae: no such key of BC; there are actor, ",
    ("algo=bc", "algo.lmbda=0.5"): "algo.lmbda: no such key of BC; there are none",
    ("algo=bc", "vae=mlp"): "vae: no such group in this configuration; leave it out, or choose",
    ("algo=bc", "+vae=mlp"): "vae: not read by BC, which reads actor, actor_optim, policy",
    ("-m", "algo=bcq,bc", "vae.latent_dim=3"): "vae: no such key of BC; there are ",
    ("-m", "algo=bcq,bc", "vae=mlp"): "vae: no such group in this configuration; leave it out",
    (
        "algo=sac",
    ): "algo=sac: no such choice; there are bc, bcq, cql, ddpg, discrete_bcq, dqn, iql, td3_bc",
    ("algo._target_=no.such.Thing",): "algo._target_=no.such.Thing: ",
    ("algo._target_=torch.nn.Linear",): "must be a subclass of OfflineAlgorithm",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_an_algorithm_does_not_read_is_refused(arguments, tmp_path):
    done = forked(*arguments, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert REFUSED[arguments] in done.stderr
    assert not list(tmp_path.iterdir())
