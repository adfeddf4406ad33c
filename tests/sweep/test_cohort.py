"""Runs trained together are the runs trained alone, in every file."""

import os
import resource
import signal

import numpy as np
import pytest
import torch

from bcq_exp.data.datasets import load_pendulum
from bcq_exp.data.task import load_task
from bcq_exp.engine import placement
from bcq_exp.engine.engine import ParallelEngine
from bcq_exp.engine.memory import run_bytes
from bcq_exp.engine.placement import place
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.training import build
from bcq_exp.training.cohort import CohortKey, cohort_key, cohorts, train_cohort
from bcq_exp.training.record import RunRecord
from bcq_exp.training.spec import RunSpec
from tests.commands import TINY, compose, engine_of, fit
from tests.engine.test_online import ONLINE
from tests.same import assert_same_run

DOUBLE = (*TINY, "trainer.precision=fp64")
DIFFERENT = (
    ("seed=0",),
    ("seed=1", "algo.lmbda=0.25", "algo.tau=0.02"),
    ("seed=2", "algo.gamma=0.9", "actor.phi=0.3", "critic_optim.lr=0.01"),
    ("seed=0", "vae.latent_clip=1.0", "vae.kl_weight=0.1", "optimizer@vae_optim=rmsprop"),
    ("seed=4", "actor_optim.schedule=cosine"),
)


def jobs_of(folder, *differences, base=DOUBLE):
    jobs = []
    for number, overrides in enumerate(differences):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        cfg = compose(*base, *overrides)
        jobs.append(RunSpec.of(cfg, folder / str(number), is_alone=False))
    return jobs


@pytest.mark.parametrize(
    "num_threads", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))]
)
def test_a_cohort_is_its_runs_alone_to_1e_9(num_threads):
    data = load_pendulum(num_steps=2000)
    cfgs = [compose(*DOUBLE, *different) for different in DIFFERENT]
    together = engine_of(cfgs, data, num_threads=num_threads, engine="eager", stacks=True)
    assert isinstance(together, ParallelEngine) == (num_threads > 1)
    statistics = torch.cat([together.advance(n) for n in (1, 3, 30, 6)], 1)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data)
        torch.testing.assert_close(statistics[k], alone.advance(40)[0], rtol=1e-9, atol=1e-9)
        state, expected = together.state_dict(k)["algorithm"], alone.state_dict(0)["algorithm"]
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-9)


def test_wide_networks_are_not_stacked_but_stand_side_by_side():
    data = load_pendulum(num_steps=2000)
    wide = [f"{net}.hidden_sizes=[256,256]" for net in ("actor", "critic", "vae")]
    cfgs = [compose(*TINY, *wide, f"seed={k}") for k in range(3)]
    engine = engine_of(cfgs, data, num_threads=2)
    assert [e.num_runs for e in engine._engines] == [1, 1, 1]
    alone = engine_of(cfgs[2:], data)
    assert torch.equal(engine.advance(4)[2], alone.advance(4)[0])


@pytest.mark.parametrize(("logger", "spare"), [("none", 30), ("wandb", 15)])
def test_a_cohort_may_have_more_runs_than_a_process_may_open_files(logger, spare, tmp_path, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    short = (*TINY, "trainer.num_steps=2", "trainer.eval_episodes=0", "trainer.engine=eager")
    base = (*short, f"logger={logger}")
    jobs = jobs_of(tmp_path, *((f"seed={k}",) for k in range(30)), base=base)
    try:
        limit = len(os.listdir("/proc/self/fd")) + spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        assert train_cohort(jobs) == [None] * 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" not in caplog.text


@pytest.mark.slow
def test_every_run_of_a_cohort_has_its_files_as_if_alone(tmp_path):
    jobs = jobs_of(tmp_path / "together", *DIFFERENT[:3])
    assert train_cohort(jobs) == [None] * 3
    for number, overrides in enumerate(DIFFERENT[:3]):
        fit(tmp_path / "alone" / str(number), *DOUBLE, *overrides)
        one, other = (RunRecord(tmp_path / kind / str(number)) for kind in ("together", "alone"))
        for table in ("train", "eval"):
            rows, expected = one.rows(table), other.rows(table)
            assert [list(row) for row in rows] == [list(row) for row in expected]
            for row, values in zip(rows, expected, strict=True):
                np.testing.assert_allclose(
                    [x for x in row.values() if x is not None],
                    [x for x in values.values() if x is not None],
                    rtol=1e-6,
                )
        summary, expected_summary = one.summary(), other.summary()
        assert summary["status"] == "completed"
        assert summary["config_hash"] == expected_summary["config_hash"]
        assert (one.folder / "run.log").read_text().count("return") >= 4
        checkpoints = [torch.load(r.checkpoint, weights_only=True) for r in (one, other)]
        assert [c["step"] for c in checkpoints] == [60, 60]
        states = [c["engine"]["algorithm"] for c in checkpoints]
        assert states[0].keys() == states[1].keys()


@pytest.mark.slow
def test_a_run_of_a_cohort_resumes_alone_and_one_alone_in_a_cohort(tmp_path):
    half = (*DOUBLE, "trainer.num_steps=30")
    train_cohort(jobs_of(tmp_path / "a", *DIFFERENT[:2], base=half))
    fit(tmp_path / "a" / "1", *DOUBLE, *DIFFERENT[1])
    for k in range(2):
        fit(tmp_path / "b" / str(k), *half, *DIFFERENT[k])
    train_cohort(jobs_of(tmp_path / "b", *DIFFERENT[:2]))
    one, other = (RunRecord(tmp_path / name / "1").rows("train") for name in "ab")
    assert [row["step"] for row in one] == [row["step"] for row in other]
    np.testing.assert_allclose(one[-1]["vae_loss"], other[-1]["vae_loss"], rtol=1e-9)


def test_a_run_that_diverges_or_fails_its_evaluation_fails_alone(tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path, ("seed=0",), ("seed=1", "critic_optim.lr=1e200"), ("seed=2",))
    build_run = build.build_run

    def with_a_broken_environment(job, *args):
        run = build_run(job, *args)
        if job.seed == 2:
            run.evaluator.evaluate = None  # calling it raises
        return run

    monkeypatch.setattr(build, "build_run", with_a_broken_environment)
    fine, diverged, broken = train_cohort(jobs)
    assert fine is None
    assert "is not finite at step" in diverged
    assert broken.startswith("evaluation failed at step 30: TypeError")
    statuses = [RunRecord(job.folder).summary()["status"] for job in jobs]
    assert statuses == ["completed", "failed", "failed"]
    assert RunRecord(jobs[0].folder).summary()["step"] == 60


def test_cohorts_agree_in_what_they_must(tmp_path):
    jobs = jobs_of(
        tmp_path,
        ("seed=0", "critic_optim.lr=0.01"),
        ("seed=1", "algo.lmbda=0.1", "policy.forward_sampled_times=7"),
        ("seed=2", "critic_optim.lr=0.01"),
        ("algo.num_sampled_action=5",),
        ("trainer.batch_size=8",),
        ("critic.hidden_sizes=[32]",),
    )
    groups = cohorts([cohort_key(job) for job in jobs])
    assert sorted(map(len, groups)) == [1, 1, 1, 3]
    (three,) = [group for group in groups if len(group) == 3]
    assert three in ([1, 0, 2], [0, 2, 1])  # equal learning rates side by side


@pytest.mark.slow
def test_the_size_of_a_group_fits_in_memory(tmp_path, monkeypatch):
    def group_size(jobs, wanted):
        return place(jobs[0].trainer, jobs[0].algorithm.hidden_sizes, len(jobs), wanted).group_size

    jobs = jobs_of(tmp_path, *((f"seed={k}",) for k in range(40)))
    wide = jobs_of(tmp_path, *((f"seed={k}", "actor.hidden_sizes=[400,300]") for k in range(9)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert group_size(jobs, "auto") == 2 * placement.STACK_SIZE
    assert group_size(wide, "auto") == 2
    assert group_size(jobs, 7) == 7
    one = run_bytes(jobs[0].algorithm.hidden_sizes, jobs[0].trainer.batch_size, double=True)
    monkeypatch.setattr(placement, "free_bytes", lambda device: 5 * one)
    assert group_size(jobs, "auto") == 5
    with pytest.raises(UserError, match="group_size=6: 6 runs .* need about .* at most 5, or auto"):
        group_size(jobs, 6)


def test_runs_that_logged_their_last_row_at_other_steps_are_not_stacked():
    keys = [CohortKey("same", 150, window, "adam") for window in (0, 50, 0)]
    assert cohorts(keys) == [[0, 2], [1]]


@pytest.mark.parametrize(
    "base",
    [(*TINY, "trainer.num_steps=20"), (*ONLINE, "trainer.num_steps=90")],
    ids=["recorded", "online"],
)
def test_runs_of_which_some_were_saved_before_their_first_step_resume_together(base, tmp_path):
    """A signal that comes before the first step leaves a checkpoint of step 0."""
    options = (*base, "trainer.eval_episodes=1")
    jobs = jobs_of(tmp_path, ("seed=0",), ("seed=1",), base=options)
    where = place(jobs[0].trainer, jobs[0].algorithm.hidden_sizes)
    stopped = build.build_trainer(jobs[:1], load_task(jobs[0].dataset), where)
    stopped._signal = signal.SIGTERM
    with pytest.raises(RunStopped, match="stopped by SIGTERM at step 0, checkpoint saved"):
        stopped.fit()
    assert len(cohorts([cohort_key(job) for job in jobs])) == 1
    assert train_cohort(jobs) == [None, None]
    alone = jobs_of(tmp_path / "alone", ("seed=0",), ("seed=1",), base=options)
    assert train_cohort(alone) == [None, None]
    for job, same in zip(jobs, alone, strict=True):
        assert_same_run(job.folder, same.folder)
