"""The Optuna sweeper: a study that goes on, a killed trial, a failed one, mistakes."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from bcq_exp.errors import RunStopped, UserError
from bcq_exp.sweep.launcher import RunFailed
from bcq_exp.sweep.search import OptunaSweeper, _distribution, _function, _record, _resubmitted
from bcq_exp.sweep.state import run_states
from bcq_exp.training.folders import hold
from tests.commands import TINY, compose
from tests.forked import forked

optuna = pytest.importorskip("optuna")

SHORT = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "trainer.checkpoint_every=10")
SEARCH = (
    "-m",
    "hydra/sweeper=optuna",
    "name=o",
    "hydra.sweeper.n_jobs=2",
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
def test_a_study_resumes_with_the_trial_that_a_kill_left(tmp_path):
    done = forked(*SEARCH, "hydra.sweeper.n_trials=3", cwd=tmp_path)
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
    done = forked(*SEARCH, "hydra.sweeper.n_trials=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 4
    assert study(tmp_path).trials[3].params == left.params
    assert len(run_states(folder)) == 4


@pytest.mark.slow
def test_a_failed_trial_is_reported_and_tried_again(tmp_path):
    searched = ("critic_optim.lr=choice(1e30)", "algo.lmbda=interval(0,1)")
    search = ("-m", "hydra/sweeper=optuna", "name=o", *searched, *SHORT)
    options = (*search, "hydra.sweeper.n_trials=1", "trainer.num_steps=20")
    done = forked(*options, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 trial failed" in done.stderr
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
    done = forked(*search, "hydra.sweeper.n_trials=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "multirun" / "o"
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 6
    assert len(run_states(folder)) == 2
    other = (*search, "algo.gamma=0.5", "hydra.sweeper.n_trials=2")
    fewer = (*other, "algo.num_sampled_action=choice(1,3)", "resume=restart", "--plan")
    assert forked(*fewer, cwd=tmp_path).returncode == 0  # all runs are set aside
    done = forked(*other, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "algo.gamma (0.99 -> 0.5)" in done.stderr and "resume=restart" in done.stderr
    done = forked(*other, "resume=restart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(study(tmp_path).trials) == 2
    assert {state.status for state in run_states(folder)} == {"done"}
    aside = {path.name for path in (folder / ".set_aside").iterdir()}
    assert aside == {"optuna.db.1", *(f"num_sampled_action={n}.1" for n in (1, 2))}


@pytest.mark.parametrize("launcher", ["vectorized", "basic"])
def test_a_search_does_not_join_runs_of_another_configuration(launcher, tmp_path):
    of_grid = (*SHORT, "-m", "name=o", "seed=3,4")
    assert forked(*of_grid, cwd=tmp_path).returncode == 0
    search = (*SEARCH, "algo.gamma=0.5", f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=1")
    for space in (("algo.lmbda=interval(0,1)",), ("algo.lmbda=choice(0.1)",)):
        refused = forked(*search, *space, cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert "seed=3 among them: algo.gamma (0.99 -> 0.5); choose" in refused.stderr
    assert not (tmp_path / "multirun" / "o" / "optuna.db").exists()


def test_a_search_that_another_process_has_in_hand_is_left_alone(tmp_path):
    folder = tmp_path / "multirun" / "o"
    folder.mkdir(parents=True)
    storage = f"sqlite:///{folder / 'optuna.db'}"
    optuna.create_study(study_name="bcq_exp", storage=storage, direction="maximize").ask()
    with hold(folder):
        done = forked(*SEARCH, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert [trial.state.name for trial in study(tmp_path).trials] == ["RUNNING"]


def test_an_interval_of_a_key_of_integers_must_be_of_integers(tmp_path):
    given = ("-m", "hydra/sweeper=optuna", "name=o", "--plan")
    interval = "algo.num_sampled_action=interval(1,10)"
    refused = forked(*given, interval, cwd=tmp_path)
    assert refused.stderr == (
        f"error: {interval}: must be integers; "
        "write 'algo.num_sampled_action=int(interval(1,10))'\n"
    )
    done = forked(*given, "algo.num_sampled_action=int(interval(1,10))", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


class Launched:
    """A launcher whose jobs return what ``outcome`` makes of their overrides, or fail."""

    def __init__(self, outcome):
        self.outcome, self.batches = outcome, []

    def launch(self, jobs, initial_job_idx):
        self.batches.append((initial_job_idx, jobs))
        return [self._result(job) for job in jobs]

    def _result(self, job):
        value = self.outcome(job)
        result = JobReturn(status=JobStatus.FAILED if value is None else JobStatus.COMPLETED)
        result.return_value = RunStopped("no value", 1) if value is None else value
        return result


LMBDA = "algo.lmbda=interval(0,1)"


def search(folder, outcome, num_trials, *, space=(LMBDA,), overrides=(), **given):
    """A search in this process; the launcher that it used."""
    sampler = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    defaults = {
        "sampler": sampler, "direction": "maximize", "params": None, "storage": None,
        "study_name": "bcq_exp", "n_trials": num_trials, "n_jobs": 2, "max_failure_rate": 1.0,
    }  # fmt: skip
    sweeper = OptunaSweeper(**{**defaults, **given})
    sweep_dir = f"hydra.sweep.dir={folder / 'multirun' / 'o'}"
    sweeper.config = compose(sweep_dir, *overrides, with_hydra=True)
    sweeper._launcher = Launched(outcome)
    sweeper.sweep(list(space))
    return sweeper._launcher


def states(folder):
    return [trial.state.name for trial in study(folder).trials]


def of_lmbda(job):
    return -float(next(word for word in job if "lmbda" in word).partition("=")[2])


def refuse(job):
    raise UserError("no such data set")


def test_every_launch_proposes_other_trials_and_numbers_its_jobs(tmp_path, caplog):
    launched = search(tmp_path, of_lmbda, 3)
    assert [(first, len(jobs)) for first, jobs in launched.batches] == [(0, 2), (2, 1)]
    with caplog.at_level("INFO", "bcq_exp"):
        search(tmp_path, of_lmbda, 6)
    assert caplog.messages[0].endswith("optuna.db: 3 trials so far; trials 4 to 6 of 6")
    trials = study(tmp_path).trials
    assert len({trial.params["algo.lmbda"] for trial in trials}) == 6
    assert [trial.value for trial in trials] == [-trial.params["algo.lmbda"] for trial in trials]
    caplog.clear()
    with caplog.at_level("INFO", "bcq_exp"):
        assert search(tmp_path, of_lmbda, 6).batches == []
    assert caplog.messages[0].endswith(": 6 trials so far; none is left to train")


def test_equal_trials_are_one_job_whose_value_is_both_trials(tmp_path):
    launched = search(tmp_path, of_lmbda, 2, space=("algo.lmbda=choice(0.5,0.5)",))
    assert launched.batches == [(0, [["algo.lmbda=0.5"]])]
    assert [trial.value for trial in study(tmp_path).trials] == [-0.5, -0.5]


def test_the_study_is_in_its_folder_whatever_this_is_called(tmp_path):
    home = tmp_path / "50% {of} it? #2"
    home.mkdir()
    overrides = (f"hydra.sweep.dir='{home}/multirun/o'",)
    search(tmp_path, lambda job: 1.0, 2, overrides=overrides)
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
    assert (home / "multirun" / "o" / "optuna.db").exists()


def test_failed_trials_are_named_and_not_replaced_in_the_same_launch(tmp_path):
    with pytest.raises(
        RunStopped, match=r"2 trials failed:\n  trial 0: no value\n  trial 1: no val"
    ):
        search(tmp_path, lambda job: None, 2)
    assert states(tmp_path) == ["FAIL", "FAIL"]


def test_a_launch_that_is_refused_fails_its_own_trials_and_not_what_a_kill_left(tmp_path):
    with pytest.raises(UserError):
        search(tmp_path, refuse, 1)
    study(tmp_path).ask({"algo.lmbda": optuna.distributions.FloatDistribution(0, 1)})
    with pytest.raises(UserError):
        search(tmp_path, refuse, 2)
    assert states(tmp_path)[:2] == ["FAIL", "RUNNING"]
    assert states(tmp_path).count("RUNNING") == 1


def test_a_study_is_of_the_configuration_of_its_complete_trials(tmp_path):
    more, less = "trainer.num_steps=20", "trainer.num_steps=10"
    with pytest.raises(RunStopped):
        search(tmp_path, lambda job: None, 1, overrides=[more])
    search(tmp_path, of_lmbda, 1, overrides=[less])
    with pytest.raises(UserError, match=r"trainer.num_steps \(10 -> 20\)"):
        search(tmp_path, of_lmbda, 2, overrides=[more])


def test_arguments_replace_what_a_file_searches(tmp_path):
    params = {"algo.lmbda": "choice(0.5)", "algo.tau": "choice(0.1,0.1)"}
    launched = search(tmp_path, of_lmbda, 1, space=("algo.lmbda=0.75",), params=params)
    assert launched.batches == [(0, [["algo.lmbda=0.75", "algo.tau=0.1"]])]


def suggest_tau(cfg, trial):
    assert cfg.trainer.num_steps
    trial.suggest_float("algo.tau", 0.1, 0.2)


def test_a_function_of_the_user_suggests_more_values(tmp_path):
    path = f"{__name__}.suggest_tau"
    launched = search(tmp_path, of_lmbda, 2, custom_search_space=path)
    ((_, jobs),) = launched.batches
    trials = study(tmp_path).trials
    assert [set(trial.params) for trial in trials] == [{"algo.lmbda", "algo.tau"}] * 2
    assert [job[1] for job in jobs] == [f"algo.tau={t.params['algo.tau']}" for t in trials]
    with pytest.raises(UserError):
        search(tmp_path, refuse, 3, custom_search_space=path)
    search(tmp_path, of_lmbda, 3, custom_search_space=path)  # the refused one is tried again
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study(tmp_path).trials[2].params == study(tmp_path).trials[3].params


def test_a_search_stops_above_its_failure_rate(tmp_path):
    with pytest.raises(RunStopped, match="2 trials failed"):
        search(tmp_path, lambda job: None, 6, max_failure_rate=0.5)
    assert states(tmp_path) == ["FAIL"] * 2


Floats = optuna.distributions.FloatDistribution
Ints = optuna.distributions.IntDistribution
Choices = optuna.distributions.CategoricalDistribution


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("range(0.005,0.02,0.005)", Floats(0.005, 0.015, step=0.005)),
        ("range(1,6,2)", Ints(1, 5, step=2)),
        ("range(5,0,-2)", Ints(1, 5, step=2)),
        ("shuffle(range(0,100))", Ints(0, 99)),
        ("interval(0,1)", Floats(0, 1)),
        ("tag(log,interval(1e-4,1e-2))", Floats(1e-4, 1e-2, log=True)),
        ("tag(int,interval(1,5))", Ints(1, 5)),
        ("int(interval(1,5))", Ints(1, 5)),
        ("tag(int,log,interval(1,8))", Ints(1, 8, log=True)),
        ("choice(3,x)", Choices(["3", "x"])),
    ],
)
def test_a_range_is_searched_as_it_is_written(values, expected):
    assert _distribution(OverridesParser.create().parse_override(f"k={values}")) == expected


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_results_begin_with_the_best_whichever_way_is_up(direction):
    sweeper = object.__new__(OptunaSweeper)
    sweeper._direction = direction
    found = optuna.create_study(direction=direction)
    for x in (1.0, 3.0, 2.0):
        trial = optuna.trial.create_trial(
            params={"x": x}, distributions={"x": Floats(0, 5)}, value=x
        )
        found.add_trial(trial)
    means = [result.mean for result in sweeper._results(found)]
    assert means == ([3.0, 2.0, 1.0] if direction == "maximize" else [1.0, 2.0, 3.0])


def test_an_objective_that_is_no_number_fails_its_trial():
    found = optuna.create_study()
    trial = found.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    result = JobReturn(status=JobStatus.COMPLETED)
    result.return_value = float("nan")
    assert _record(found, trial, result) == "its objective is nan"
    assert found.trials[0].state.name == "FAIL"


def test_a_trial_has_its_own_reason_not_that_of_all_it_was_trained_with():
    found = optuna.create_study()
    trial = found.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    result = JobReturn(status=JobStatus.FAILED)
    whole = RunStopped("2 of 2 runs failed:\n  a: not finite\n  b: killed", 1)
    result.return_value = RunFailed("not finite", whole)
    assert _record(found, trial, result) == "not finite"


def test_trials_of_another_space_are_not_taken_up():
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    found = optuna.create_study()
    found.ask({"y": optuna.distributions.FloatDistribution(0, 1)})
    mine = found.ask(space)
    assert [trial.number for trial in _resubmitted(found, space)] == [mine.number]
    assert [trial.state.name for trial in found.trials] == ["FAIL", "RUNNING"]


def test_a_failed_trial_is_asked_for_once_more_at_each_launch():
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    found = optuna.create_study()
    first = found.ask(space)
    for _ in range(2):
        found.tell(found.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        assert _resubmitted(found, space) == []
        assert [trial.state.name for trial in found.trials].count("WAITING") == 1
        assert found.ask(space).params == first.params
    assert found.ask(space).params != first.params


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("algo.lmbda=interval(1,0)",), "algo.lmbda=interval(1,0): "),
        (("algo.tau=tag(lgo,interval(0.1,1))",), "(lgo,interval(0.1,1)): no tag lgo; only an"),
        (("seed=tag(log,range(1,9))",), "seed=tag(log,range(1,9)): no tag log; only an interval"),
        ((LMBDA, "hydra.sweeper.sampler.seed=-1"), "hydra.sweeper.sampler.seed=-1: must be"),
        ((LMBDA, "hydra.sweeper.n_trials=1.5"), "n_trials=1.5: must be an integer at least 1"),
        ((LMBDA, "hydra.sweeper.n_jobs=0"), "n_jobs=0: must be an integer at least 1"),
        ((LMBDA, "hydra.sweeper.direction=up"), "direction=up: must be one of maximize, minimize"),
        ((LMBDA, "hydra.sweeper.search_space={a:1}"), "Hydra replaced it by hydra.sweeper.params"),
        ((LMBDA, "hydra.sweeper.num_trials=3"), "was replaced by hydra.sweeper.n_trials"),
        ((LMBDA, "hydra.sweeper.batch_size=3"), "was replaced by hydra.sweeper.n_jobs"),
        ((LMBDA, "hydra.sweeper.sampler=cmaes"), "was replaced by hydra/sweeper/sampler=cmaes"),
        (("algo.lmbda=range(0,1)",), "algo.lmbda=range(0,1): a search over one setting, as no key"),
        (("algo.lmbda=interval(0,3)",), "algo.lmbda=3.0: must be a number in [0, 1]"),
    ],
)
def test_mistakes_are_one_line(overrides, said, tmp_path):
    done = forked("-m", "hydra/sweeper=optuna", *SHORT, *overrides, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sampler": {"_target_": "optuna.samplers.GridSampler"}}, "the default sweeper trains"),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "x": 1}},
            "hydra.sweeper.sampler: ",
        ),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": "x"}},
            "hydra.sweeper.sampler: '<' not supported",
        ),
        ({"sampler": "x"}, "must be a choice, hydra/sweeper/sampler=NAME"),
        ({"custom_search_space": "no.such"}, "hydra.sweeper.custom_search_space=no.such: "),
        ({"custom_search_space": "json"}, "custom_search_space=json: must name a function"),
        ({"space": ()}, "nothing to search; give keys a range"),
        ({"space": ("algo.tau=tag(log,interval(0,1))",)}, "algo.tau=tag(log,interval(0,1)): "),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_named(given, said, tmp_path):
    with pytest.raises(UserError) as refused:
        search(tmp_path, of_lmbda, 1, **given)
    assert said in str(refused.value)


def test_a_function_may_have_the_name_of_its_module_in_a_package(tmp_path, monkeypatch):
    package = tmp_path / "spaces_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from spaces_of_mine.space import space")
    (package / "space.py").write_text("def space(cfg, trial): ...")
    (package / "broken.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    assert _function("spaces_of_mine.space").__name__ == "space"
    with pytest.raises(UserError, match="No module named 'no_such_dependency'"):
        _function("spaces_of_mine.broken.space")


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
