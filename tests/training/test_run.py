"""Whole runs: seeds, precision, action units, divergence, cadence and what is recorded."""

import json
import logging
import shutil
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch

from bcq_exp import load_policy
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQ
from bcq_exp.data import env_scores
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.training import algorithms, build, provenance, restore
from bcq_exp.training import checkpoint as checkpoints
from bcq_exp.training import run as runs
from bcq_exp.training.cohort import train_cohort
from bcq_exp.training.evaluation import EpisodeResults, Evaluator
from bcq_exp.training.objective import Objective
from bcq_exp.training.progress import Progress
from bcq_exp.training.record import RunRecord
from bcq_exp.training.run import Run
from bcq_exp.training.trainer import Cadence, Trainer, all_finite
from tests.commands import TINY, algorithm_of, compose, fit, spec_of, spoil_engine
from tests.same import assert_same_rows, assert_same_run, checkpoint

SHORT = (*TINY, "trainer.num_steps=30")
SHORT_EPISODES = pytest.mark.usefixtures("short_episodes")


def train_rows(folder):
    return (folder / "train.csv").read_text()


@SHORT_EPISODES
def test_one_seed_is_one_run_and_another_is_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))  # what happened before does not matter
        np.random.seed(ord(name))
        fit(tmp_path / name, *SHORT, f"seed={seed}")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert train_rows(tmp_path / "a") != train_rows(tmp_path / "c")


@SHORT_EPISODES
def test_training_leaves_global_generators_alone(tmp_path):
    numpys, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()
    fit(tmp_path / "r", *SHORT)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.get_rng_state(), torchs)


@SHORT_EPISODES
@pytest.mark.slow
def test_evaluating_more_often_does_not_change_the_training(tmp_path):
    fit(tmp_path / "a", *SHORT)
    fit(tmp_path / "b", *SHORT, "trainer.eval_every=8", "trainer.eval_episodes=1")
    assert train_rows(tmp_path / "a") == train_rows(tmp_path / "b")
    assert [r["step"] for r in RunRecord(tmp_path / "b").rows("eval")] == [8, 16, 24, 30]


@SHORT_EPISODES
def test_a_row_of_training_is_the_mean_since_the_last(tmp_path):
    fit(tmp_path / "fine", *SHORT, "trainer.log_every=1")
    fit(tmp_path / "coarse", *SHORT, "trainer.log_every=12")
    fine, coarse = (RunRecord(tmp_path / name).rows("train") for name in ("fine", "coarse"))
    assert [row["step"] for row in coarse] == [12, 24, 30]
    assert list(coarse[0]) == ["step", *BCQ.statistics()]
    for first, row in zip((0, 12, 24), coarse, strict=True):
        for name in BCQ.statistics():
            mean = np.mean([r[name] for r in fine[first : row["step"]]])
            assert row[name] == pytest.approx(mean, rel=1e-9)


BOUNDED = {"clip": lambda x: np.clip(x, -1, 1), "tanh": np.tanh, "null": lambda x: x}


@SHORT_EPISODES
@pytest.mark.parametrize("method", BOUNDED)
def test_scaled_actions_train_and_act_within_the_space(method, tmp_path):
    options = ("policy.action_scaling=true", f"policy.action_bound_method={method}")
    fit(tmp_path / "r", *SHORT, *options)
    agent = restore.load_run(tmp_path / "r", "cpu").agent
    obs = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    unit = agent.policy(Batch(obs=obs), generator=torch.Generator().manual_seed(0)).act
    act = agent.act(obs, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(act, 2 * BOUNDED[method](unit), rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(act).max() <= 2.0
    recon_loss = [row["recon_loss"] for row in RunRecord(tmp_path / "r").rows("train")]
    assert recon_loss[-1] < recon_loss[0]


def test_scaled_data_are_in_the_policys_unit():
    data = load_pendulum(num_steps=2000)
    policy = algorithm_of(
        compose(*TINY, "policy.action_scaling=true"), data.observation_space, data.action_space
    ).policy
    act = build.for_training(data.transitions, policy, None).act
    np.testing.assert_allclose(act, data.transitions.act / 2, atol=1e-6)


@SHORT_EPISODES
@pytest.mark.slow
def test_double_precision_is_double_throughout_and_near_single(tmp_path):
    fit(tmp_path / "single", *SHORT)
    fit(tmp_path / "double", *SHORT, "trainer.precision=fp64")
    state = checkpoint(tmp_path / "double")["engine"]["algorithm"]
    dtypes = {name: x.dtype for name, x in state.items() if isinstance(x, torch.Tensor)}
    assert len(dtypes) > 20
    assert set(dtypes.values()) == {torch.float64}
    first, second = (RunRecord(tmp_path / n).rows("train")[0] for n in ("single", "double"))
    assert first != second
    assert second["vae_loss"] == pytest.approx(first["vae_loss"], rel=0.2)


@SHORT_EPISODES
def test_a_diverging_run_fails_with_its_last_good_checkpoint(tmp_path):
    options = (*TINY, "optimizer@critic_optim=sgd", "critic_optim.lr=1e3")
    with pytest.raises(RunStopped, match=r"run failed: a loss is not finite at step \d+") as caught:
        fit(tmp_path / "r", *options, "trainer.checkpoint_every=1")
    assert caught.value.status == 1
    summary = RunRecord(tmp_path / "r").summary()
    assert summary["status"] == "failed"
    step = int(str(caught.value).split("step ")[1].split(";")[0])
    saved = checkpoint(tmp_path / "r")
    assert 1 <= saved["step"] < step == summary["step"]
    assert all_finite(saved["engine"])


def break_at(monkeypatch, step, column):
    def spoil(engine, advance):
        def spoilt(num_steps):
            first, statistics = engine.step, advance(num_steps)
            if first < step <= engine.step:
                statistics[0, step - first - 1, column] = float("inf")
            return statistics

        engine.advance = spoilt

    spoil_engine(monkeypatch, lambda engine: spoil(engine, engine.advance))


@SHORT_EPISODES
@pytest.mark.parametrize("loss", range(4))
def test_the_first_step_that_is_not_finite_is_named(loss, tmp_path, monkeypatch):
    break_at(monkeypatch, 27, loss)
    with pytest.raises(RunStopped, match="a loss is not finite at step 27; its files are in"):
        fit(tmp_path / "r", *TINY)
    assert checkpoint(tmp_path / "r")["step"] == 15
    assert [row["step"] for row in RunRecord(tmp_path / "r").rows("train")] == [10, 20]
    assert RunRecord(tmp_path / "r").summary()["failure"] == "a loss is not finite at step 27"


def test_the_losses_of_a_run_that_failed_are_not_shown(tmp_path, monkeypatch):
    class Shown(Progress):
        def update(self, step, losses=None):
            shown.append(losses)

    shown = []
    monkeypatch.setattr("bcq_exp.training.trainer.progress", lambda *_: Shown())
    break_at(monkeypatch, 1, slice(None))
    brief = (*TINY, "trainer.num_steps=20", "trainer.eval_episodes=0", "trainer.engine=eager")
    cfgs = [compose(*brief, f"seed={seed}") for seed in range(2)]
    failures = train_cohort([spec_of(cfg, tmp_path / str(cfg.seed)) for cfg in cfgs])
    assert failures == ["a loss is not finite at step 1", None]
    row = RunRecord(tmp_path / "1").rows("train")[-1]
    assert shown[-1] == {name: row[name] for name in BCQ.losses()}


@SHORT_EPISODES
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    def spoil(engine, state_dict):
        def spoilt(run):
            bad = torch.tensor(float("inf")) if engine.step == 30 else torch.tensor(0.0)
            return {**state_dict(run), "deep": [bad]}

        engine.state_dict = spoilt

    spoil_engine(monkeypatch, lambda engine: spoil(engine, engine.state_dict))
    with pytest.raises(RunStopped, match="a weight is not finite at step 30"):
        fit(tmp_path / "r", *TINY)
    assert checkpoint(tmp_path / "r")["step"] == 15


def test_an_environment_that_raises_fails_the_run_in_one_line(tmp_path, monkeypatch):
    def evaluate(self, agent, is_stopped):
        raise ZeroDivisionError("in the simulator")

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    with pytest.raises(RunStopped, match="evaluation failed at step 30: ZeroDivisionError: in the"):
        fit(tmp_path / "r", *TINY)
    assert checkpoint(tmp_path / "r")["step"] == 30


def test_a_return_that_is_not_a_number_is_not_the_best(tmp_path, monkeypatch):
    returns = iter([np.nan, 1.0])

    def evaluate(self, agent, is_stopped):
        lengths = np.array([3])
        return EpisodeResults(np.array([next(returns)]), lengths, None, None, np.zeros((3, 1)))

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    fit(tmp_path / "r", *TINY)
    assert RunRecord(tmp_path / "r").summary()["best"]["step"] == 60


def test_the_contents_of_the_summary(trained):
    summary = RunRecord(trained).summary()
    rows = RunRecord(trained).rows("eval")
    assert (summary["status"], summary["failure"], summary["step"]) == ("completed", None, 60)
    assert summary["last"] == rows[-1]
    assert summary["best"] == max(rows, key=lambda row: row["return_mean"])
    assert summary["seed"] == 0
    data = load_pendulum(num_steps=2000)
    assert summary["dataset"] == {
        "id": data.id,
        "content_hash": data.content_hash,
        "num_transitions": 2000,
        "num_episodes": len(data.episode_returns),
        "behaviour_return": data.behaviour_return,
        "cut_episodes": data.num_cut,
    }
    assert summary["versions"].keys() >= {"python", "torch", "numpy", "mujoco", "gymnasium"}
    assert summary["versions"]["torch"] == version("torch")
    assert summary["command"].startswith("bcq_exp train dataset.num_steps=2000 ")
    assert summary["config"]["trainer"]["batch_size"] == 16
    assert len(summary["config_hash"]) == 16
    assert summary["steps_per_second"] == pytest.approx(60 / summary["wall_time"], rel=0.01)


def test_evaluations_are_recorded_episode_by_episode(trained):
    record = RunRecord(trained)
    rows, episodes = record.rows("eval"), record.episodes()
    assert episodes["step"].tolist() == [row["step"] for row in rows] == [30, 60]
    assert episodes["returns"].shape == episodes["lengths"].shape == (2, 2)
    score = load_pendulum(num_steps=2000).normalized_score
    for row, returns, lengths in zip(rows, episodes["returns"], episodes["lengths"], strict=True):
        assert row["return_mean"] == pytest.approx(returns.mean(), rel=1e-12)
        assert row["return_std"] == pytest.approx(returns.std(), rel=1e-12)
        assert row["length_mean"] == lengths.mean() == 200
        assert row["normalized_score"] == pytest.approx(score(returns.mean()))


@SHORT_EPISODES
def test_the_objective_is_the_last_evaluations(tmp_path):
    mean = fit(tmp_path / "r", *SHORT)
    score = fit(tmp_path / "s", *SHORT, "trainer.objective=normalized_score")
    last = RunRecord(tmp_path / "r").rows("eval")[-1]
    assert (mean, score) == (last["return_mean"], last["normalized_score"])


def test_a_score_without_a_scale_is_refused_before_training(trained, tmp_path, monkeypatch):
    monkeypatch.delitem(env_scores.REFERENCE_SCORES, "Pendulum")
    said = "no reference scores are known.*use return_mean"
    with pytest.raises(UserError, match=said):
        fit(tmp_path / "r", *SHORT, "trainer.objective=normalized_score")
    assert not RunRecord(tmp_path / "r").has_begun
    with pytest.raises(UserError, match=said):
        Objective("normalized_score", 60).number({"normalized_score": None}, RunRecord(trained))


def test_the_agent_of_a_checkpoint_is_the_one_evaluated(trained):
    run = restore.load_run(trained, "cpu")
    results = Evaluator(run.make_env, 2, seed=1000).evaluate(run.agent)
    assert np.array_equal(results.returns, RunRecord(trained).episodes()["returns"][-1])


def test_an_agent_loads_where_its_run_could_not_be_trained(trained, tmp_path):
    record = RunRecord(shutil.copytree(trained, tmp_path / "r"))
    saved = checkpoints.load(record.checkpoint)
    for setting in ({"engine": "cuda_graph"}, {"precision": "tf32"}, {"device": "cuda:7"}):
        trainer = {**saved["config"]["trainer"], **setting}
        changed = {**saved, "config": {**saved["config"], "trainer": trainer}}
        checkpoints.save(record.checkpoint, changed)
        run = restore.load_run(record.folder, "cpu")
        results = Evaluator(run.make_env, 2, seed=1000).evaluate(run.agent)
        assert np.array_equal(results.returns, record.episodes()["returns"][-1])


def test_the_provenance_of_an_agent_is_that_of_its_checkpoint(trained, tmp_path):
    record = RunRecord(shutil.copytree(trained, tmp_path / "r"))
    summary = record.summary()
    record.write_summary({**summary, "status": "failed", "step": 75})
    names = ("algorithm", "command", "seed", "config_hash", "versions", "git_commit", "config")
    assert restore.origin(record.folder) == {name: summary[name] for name in names}
    assert restore.load_run(record.folder, "cpu").step == 60


def test_the_agent_of_a_checkpoint_normalizes_in_double_precision_as_it_was_trained(tmp_path):
    fit(tmp_path / "r", *SHORT, "trainer.normalize_obs=true", "trainer.precision=fp64")
    run = restore.load_run(tmp_path / "r", "cpu")
    results = Evaluator(run.make_env, 2, seed=1000).evaluate(run.agent)
    assert np.array_equal(results.returns, RunRecord(tmp_path / "r").episodes()["returns"][-1])
    obs = load_pendulum(num_steps=2000).transitions.obs
    np.testing.assert_allclose(run.agent.normalizer.mean, obs.mean(0), atol=1e-4)
    np.testing.assert_allclose(run.agent.normalizer.std, obs.std(0), atol=1e-4)
    policy = load_policy(tmp_path / "r", "cpu")
    act, _ = policy.predict(obs[:5], deterministic=True)
    np.testing.assert_array_equal(act, run.agent.act(obs[:5], torch.Generator().manual_seed(0)))
    alone, _ = policy.predict(obs[0], deterministic=True)
    np.testing.assert_allclose(alone, policy.predict(obs[:1], deterministic=True)[0][0])


@SHORT_EPISODES
def test_a_run_that_resumes_with_another_version_lists_the_earlier_one(run, monkeypatch):
    record = RunRecord(run)
    before = record.summary()
    assert before["earlier"] == []
    monkeypatch.setattr(provenance, "versions", lambda: {**before["versions"], "torch": "0"})
    for num_steps in (70, 80):
        fit(run, *TINY, f"trainer.num_steps={num_steps}", "trainer.engine=eager")
        (earlier,) = record.summary()["earlier"]
        names = ("versions", "git_commit", "engine")
        assert earlier == {"step": 60, **{name: before[name] for name in names}}


def test_an_agent_that_collects_acts_as_it_is_evaluated(trained):
    agent = restore.load_run(trained, "cpu").agent
    obs = np.array([0.1, -0.9, 2.0], np.float32)
    behave = restore.as_behaviour(agent, seed=4)
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        expected = agent.act(obs[None], generator)[0]
        assert np.array_equal(behave(obs, rng), expected)


def test_the_cadence_stops_where_something_is_due():
    cadence = Cadence(230, log_every=60, eval_every=90, checkpoint_every=200, until=210)
    stops, step = [], 0
    while step < 210:
        step = cadence.next_stop(step)
        stops.append(step)
    assert stops == [60, 90, 120, 180, 200, 210]
    assert [s for s in (90, 180, 210, 230) if cadence.is_due(90, s)] == [90, 180, 230]


def test_finite_means_every_tensor_at_any_depth():
    good = {"a": [torch.ones(2), {"b": (torch.zeros(1), 3)}]}
    assert all_finite(good)
    assert not all_finite({**good, "c": [(torch.tensor([1.0, float("nan")]),)]})
    assert not all_finite({**good, "c": torch.tensor(float("inf"))})


def test_a_run_without_rows_has_no_rate(tmp_path):
    (tmp_path / "r").mkdir()
    run = runs.Run(
        record=RunRecord(tmp_path / "r"),
        log=logging.getLogger("r"),
        tracker=type("T", (), {"id": None})(),
        evaluator=None,
        normalizer=None,
        normalized_score=lambda ret: None,
        facts={"seed": 3, "watches": []},
        environment={},
        seconds=0.0,
    )
    run.write_summary("running", 0)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["steps_per_second"], summary["best"], summary["last"]) == (None, None, None)
    assert summary["seed"] == 3


@SHORT_EPISODES
def test_the_rate_is_of_training_alone(tmp_path, monkeypatch):
    """However often a run is evaluated between two rows."""
    evaluate, loop, whole = Run.evaluate, Trainer._loop, []

    def slowly(run, *args):
        time.sleep(0.1)
        evaluate(run, *args)

    def timed(trainer, shown):
        began = time.perf_counter()
        loop(trainer, shown)
        whole.append(time.perf_counter() - began)

    monkeypatch.setattr(Run, "evaluate", slowly)
    monkeypatch.setattr(Trainer, "_loop", timed)
    fit(tmp_path, *TINY, "trainer.eval_every=10", "trainer.log_every=60")
    (row,) = RunRecord(tmp_path).rows("timing")
    assert row["wall_time"] < whole[0] - 6 * 0.1
    assert row["steps_per_second"] == pytest.approx(60 / row["wall_time"])


BRIEF = (*TINY, "trainer.num_steps=6", "trainer.eval_episodes=1", "trainer.checkpoint_every=2")


@SHORT_EPISODES
def test_actions_are_scaled_where_their_bounds_are_far_from_one(tmp_path, monkeypatch):
    fit(tmp_path / "near", *BRIEF)
    stored = RunRecord(tmp_path / "near").summary()["config"]["policy"]
    assert stored["action_scaling"] is False  # what auto came to
    fit(tmp_path / "near", *BRIEF, "trainer.num_steps=8")  # and goes on
    with pytest.raises(UserError, match=r"policy.action_scaling \(False -> True\)"):
        fit(tmp_path / "near", *BRIEF, "policy.action_scaling=true")
    monkeypatch.setattr(algorithms, "is_far_from_one", lambda space: True)
    with pytest.raises(UserError, match="action_scaling=False, but auto gives True for its action"):
        fit(tmp_path / "near", *BRIEF, "trainer.num_steps=9")
    fit(tmp_path / "far", *BRIEF)
    assert RunRecord(tmp_path / "far").summary()["config"]["policy"]["action_scaling"] is True
    fit(tmp_path / "given", *BRIEF, "policy.action_scaling=true")
    assert_same_rows(tmp_path / "far", tmp_path / "given")


def test_a_dead_vae_is_logged_once_with_remedies_and_kept_in_the_summary(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(runs, "LASTING_STEPS", 40)
    dead = (*TINY, "vae.kl_weight=1e4", "vae_optim.lr=0.01", "trainer.log_every=10")
    dead = (*dead, "trainer.eval_episodes=0", "trainer.engine=eager")
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, *dead, "trainer.num_steps=300")
        (said,) = [m for m in caplog.messages if m.startswith("dead VAE")]
        assert "kl_loss" in said and "trainer.normalize_obs=true" in said
        assert RunRecord(tmp_path).summary()["trouble"] == ["dead VAE"]
        caplog.clear()
        fit(tmp_path, *dead, "trainer.num_steps=330")
        assert not [m for m in caplog.messages if m.startswith("dead VAE")]
        assert RunRecord(tmp_path).summary()["trouble"] == ["dead VAE"]


def test_a_dead_vae_is_found_by_a_run_that_is_often_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LASTING_STEPS", 40)
    dead = (*TINY, "vae.kl_weight=1e4", "vae_optim.lr=0.01", "trainer.log_every=10")
    dead = (*dead, "trainer.eval_episodes=0", "trainer.engine=eager")
    for num_steps in (30, 60, 90, 120):
        fit(tmp_path, *dead, f"trainer.num_steps={num_steps}")
    assert RunRecord(tmp_path).summary()["trouble"] == ["dead VAE"]


def test_a_live_vae_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LASTING_STEPS", 40)
    options = ("trainer.log_every=10", "trainer.eval_episodes=0", "trainer.engine=eager")
    fit(tmp_path, *TINY, *options, "trainer.num_steps=100")
    assert RunRecord(tmp_path).summary()["trouble"] == []
