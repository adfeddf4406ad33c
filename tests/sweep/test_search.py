"""The Optuna sweeper: a study that goes on, a killed trial, a failed one, mistakes."""

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from bcq_exp.errors import RunStopped
from bcq_exp.sweep.launcher import RunFailed
from bcq_exp.sweep.search import _taken_up_again, _tell
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import hold
from tests.commands import TINY
from tests.forked import forked

optuna = pytest.importorskip("optuna")

SHORT = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "trainer.checkpoint_every=10")
SEARCH = (
    "-m",
    "hydra/sweeper=optuna",
    "name=o",
    "hydra.sweeper.batch_size=2",
    "algo.lmbda=interval(0,1)",
    "critic_optim.lr=tag(log,interval(1e-4,1e-2))",
    "algo.tau=range(0.005,0.02,0.005)",
    "seed=choice(3,4)",
    *SHORT,
)


def study(folder):
    storage = f"sqlite:///{folder / 'multirun' / 'o' / 'optuna.db'}"
    return optuna.load_study(study_name="bcq_exp", storage=storage)


@pytest.mark.slow
def test_a_study_goes_on_and_takes_up_what_a_kill_left(tmp_path):
    done = forked(*SEARCH, "hydra.sweeper.num_trials=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "multirun" / "o"
    trials = study(tmp_path).trials
    assert len(trials) == 3
    returns = {state.last_return for state in run_states(folder)}
    assert {trial.value for trial in trials} == returns
    for trial in trials:
        assert 0 <= trial.params["algo.lmbda"] <= 1
        assert 1e-4 <= trial.params["critic_optim.lr"] <= 1e-2
        assert round(trial.params["algo.tau"], 6) in (0.005, 0.01, 0.015)
        assert trial.params["seed"] in ("3", "4")
    assert done.stdout.splitlines()[-1].startswith("report: bcq_exp compare multirun/o ")
    best = OmegaConf.load(folder / "optimization_results.yaml")
    assert best.best_value == max(trial.value for trial in trials)

    left = study(tmp_path).ask(trials[0].distributions)  # as a kill leaves it: running for ever
    done = forked(*SEARCH, "hydra.sweeper.num_trials=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 4
    assert study(tmp_path).trials[3].params == left.params
    assert len(run_states(folder)) == 4


@pytest.mark.slow
def test_a_failed_trial_is_told_and_tried_again(tmp_path):
    searched = ("critic_optim.lr=choice(1e30)", "algo.lmbda=interval(0,1)")
    search = ("-m", "hydra/sweeper=optuna", "name=o", *searched, *SHORT)
    options = (*search, "hydra.sweeper.num_trials=1", "trainer.num_steps=20")
    done = forked(*options, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 trials failed" in done.stderr
    assert "not finite" in done.stderr.splitlines()[-1]
    assert forked(*options, cwd=tmp_path).returncode == 1
    first, again = study(tmp_path).trials
    assert first.state.name == again.state.name == "FAIL"
    assert first.params == again.params
    assert first.params["critic_optim.lr"] == "1e+30"


@pytest.mark.slow
def test_equal_trials_are_one_run_and_a_study_is_of_one_configuration(tmp_path):
    choice = ("-m", "hydra/sweeper=optuna", "name=o", "algo.num_sampled_action=choice(1,2)")
    search = (*choice, *(o for o in SHORT if "num_sampled" not in o))
    done = forked(*search, "hydra.sweeper.num_trials=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "multirun" / "o"
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 6
    assert len(run_states(folder)) == 2
    other = (*search, "algo.gamma=0.5", "hydra.sweeper.num_trials=2")
    done = forked(*other, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "algo.gamma (0.99 -> 0.5)" in done.stderr and "resume=restart" in done.stderr
    done = forked(*other, "resume=restart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(study(tmp_path).trials) == 2
    assert {state.status for state in run_states(folder)} == {"done"}
    aside = {path.name for path in (folder / ".set_aside").iterdir()}
    assert aside == {"optuna.db.1", *(f"algo.num_sampled_action={n}.1" for n in (1, 2))}


def test_a_search_that_another_process_has_in_hand_is_left_alone(tmp_path):
    folder = tmp_path / "multirun" / "o"
    folder.mkdir(parents=True)
    storage = f"sqlite:///{folder / 'optuna.db'}"
    optuna.create_study(study_name="bcq_exp", storage=storage, direction="maximize").ask()
    with hold(folder):
        done = forked(*SEARCH, "hydra.sweeper.num_trials=2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert [trial.state.name for trial in study(tmp_path).trials] == ["RUNNING"]


def test_an_objective_that_is_no_number_fails_its_trial():
    found = optuna.create_study()
    trial = found.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    result = JobReturn(status=JobStatus.COMPLETED)
    result.return_value = float("nan")
    assert _tell(found, trial, result) == "its objective is nan"
    assert found.trials[0].state.name == "FAIL"


def test_a_trial_has_its_own_reason_not_that_of_all_it_was_trained_with():
    found = optuna.create_study()
    trial = found.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    result = JobReturn(status=JobStatus.FAILED)
    whole = RunStopped("2 of 2 runs failed:\n  a: not finite\n  b: killed", 1)
    result.return_value = RunFailed("not finite", whole)
    assert _tell(found, trial, result) == "not finite"


def test_trials_of_another_space_are_not_taken_up():
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    found = optuna.create_study()
    found.ask({"y": optuna.distributions.FloatDistribution(0, 1)})
    mine = found.ask(space)
    assert [trial.number for trial in _taken_up_again(found, space)] == [mine.number]
    assert [trial.state.name for trial in found.trials] == ["FAIL", "RUNNING"]


def test_a_failed_trial_is_asked_for_once_more_at_each_launch():
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    found = optuna.create_study()
    first = found.ask(space)
    for _ in range(2):
        found.tell(found.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        assert _taken_up_again(found, space) == []
        assert [trial.state.name for trial in found.trials].count("WAITING") == 1
        assert found.ask(space).params == first.params
    assert found.ask(space).params != first.params


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("algo.lmbda=tag(log,interval(0,1))",), "algo.lmbda=tag(log,interval(0,1)): "),
        (("algo.lmbda=interval(1,0)",), "algo.lmbda=interval(1,0): "),
        (("algo.lmbda=interval(0,1)", "hydra.sweeper.num_trials=1.5"), "must be an integer"),
        (("algo.lmbda=interval(0,1)", "hydra.sweeper.seed=-1"), "hydra.sweeper.seed=-1: must be"),
        ((), "nothing to search"),
        (("hydra.sweeper.sampler=x", "algo.lmbda=interval(0,1)"), "must be one of tpe"),
        (("algo.lmbda=interval(0,3)",), "algo.lmbda=3.0: must be a number in [0, 1]"),
    ],
)
def test_mistakes_are_one_line(overrides, said, tmp_path):
    done = forked("-m", "hydra/sweeper=optuna", *SHORT, *overrides, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("name", ["seeds", "lmbda_tau_n", "phi_gamma", "optuna_full"])
def test_a_ready_sweep_begins_with_its_command(name, tmp_path):
    from tests.commands import CONF

    first, second, third, *_ = (CONF / "sweep" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert second == f"# bcq_exp train sweep={name} name={name}"
    assert third.startswith("# ")
    done = forked(
        *second.removeprefix("# bcq_exp train ").split(),
        "hydra.launcher.group_size=none",
        cwd=tmp_path,
    )
    # as far as the launcher, which refuses the size of its groups
    assert "group_size=none: must be auto" in done.stderr


def test_a_database_that_is_none_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "multirun" / "o"
    folder.mkdir(parents=True)
    (folder / "optuna.db").write_text("no database" * 100)
    for more in ((), ("hydra.sweeper.storage=nonsense://x",)):
        done = forked(*SEARCH, *more, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("error: hydra.sweeper.storage=")
    assert [path.name for path in folder.iterdir()] == ["optuna.db"]
