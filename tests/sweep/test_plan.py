"""What is refused before a sweep starts, and where its runs go."""

import pytest

from bcq_exp.config.naming import LONGEST_FOLDER_NAME, RunNaming, run_folder
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_ALGORITHM, TINY
from tests.forked import forked

MISTAKES = {
    "seed=range(0,0)": "seed=range(0,0): an empty grid",
    "seed=range(0,2),range(5,9)": "seed=range(0,2),range(5,9): a range cannot be one of several",
    "algo.nope=1,2": "algo.nope: no such key of BCQ; there are gamma, lmbda",
    "algo.lmbda=0.5,2": "algo.lmbda=2.0: must be a number in [0, 1]",
    "algo.lmbda=0.5,x": "algo.lmbda=x: must be a number in [0, 1]",
    "critic=state_action,huge": "critic=huge: no such choice; there are state, state_action",
    "sweep=seeds,phi_gamma": "equal runs, as nothing in their training differs; give one sweep=",
    "logger=wandb,none": "logger=wandb, logger=none: give equal runs",
    "trainer.objective=return_mean,normalized_score": "objective=normalized_score: give equal runs",
    "name=a,b": "equal runs, as nothing in their training differs; give one value of name",
    "algo.tau=0.1,1e-1": "two runs of the sweep map to one folder: multirun/s/gamma=0.9",
    "seed=1,1": "two runs of the sweep map to one folder: multirun/s/gamma=0.9,seed=1",
    "seed=1,2,1": "multirun/s/gamma=0.9,seed=1; give each value once\n",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(override, tmp_path):
    done = forked("-m", "name=s", "algo.gamma=0.9,0.99", override, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert MISTAKES[override] in done.stderr
    assert not (tmp_path / "multirun").exists()


def test_choices_whose_keys_are_all_given_make_equal_runs(tmp_path):
    given = ("experiment=lmbda_0,lmbda_1", "algo.lmbda=0.5", "name=s")
    done = forked("-m", *given, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "experiment=lmbda_0, experiment=lmbda_1: give equal runs" in done.stderr
    apart = forked("-m", *given[:1], "name=s", "logger=none", "--plan", cwd=tmp_path)
    assert apart.returncode == 0, apart.stderr


@pytest.mark.parametrize(
    ("override", "alike"),
    [
        ("trainer.device=cpu,auto", "trainer.device=cpu, trainer.device=auto"),
        ("trainer.engine=eager,auto", "trainer.engine=eager, trainer.engine=auto"),
        ("trainer.eval_every=30,60", "trainer.eval_every=30, trainer.eval_every=60"),
        ("trainer.eval_seed=1,2", "trainer.eval_seed=1, trainer.eval_seed=2"),
        ("trainer.num_steps=30,60", None),
        ("algo.tau=0.1,0.2", None),
    ],
)
def test_values_that_train_the_same_policy_are_noted(override, alike, tmp_path):
    done = forked("-m", "name=s", *TINY, "seed=0,1", override, "--plan", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    what = "train the same policy, as nothing that affects training differs"
    noted = [line for line in done.stdout.splitlines() if line.endswith(what)]
    assert noted == ([] if alike is None else [f"{alike}: {what}"])


@pytest.mark.slow
def test_a_group_of_no_size_and_two_runs_of_one_folder_are_refused(tmp_path):
    for override, said in (
        ("hydra.launcher.group_size=0", "must be auto or an integer at least 1"),
        ("hydra.sweep.subdir=x", "two runs of the sweep map to one folder"),
        ("hydra.launcher.group_size=2", "at most 1, or auto"),
    ):
        done = forked(
            "-m", "name=s", "seed=0,1", override, "trainer.batch_size=40000000", cwd=tmp_path
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
    assert not list(tmp_path.glob("multirun/s/*/"))


@pytest.mark.slow
def test_the_name_of_a_single_run_is_refused(tmp_path):
    assert forked("name=one", *TINY, "trainer.num_steps=10", cwd=tmp_path).returncode == 0
    done = forked("-m", "name=one", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds a single run; choose another name" in done.stderr


def test_a_folder_is_named_by_what_is_swept():
    overrides = ["name=s", "algo.lmbda=0.5", "seed=3", "actor=gaussian", "+dataset.x=a/b c"]
    assert run_folder("algo.lmbda,seed", overrides) == "lmbda=0.5,seed=3"
    assert run_folder("algo.lmbda,seed", overrides, True) == "algo.lmbda=0.5,seed=3"
    assert run_folder("actor,dataset.x", overrides) == "actor=gaussian,x=a_b_c"


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        (
            ["actor_optim.lr", "critic_optim.lr", "seed"],
            ["actor_optim.lr", "critic_optim.lr", "seed"],
        ),
        (["critic_optim.lr", "algo"], ["lr", "algo"]),
        (["dataset.seed"], ["dataset.seed"]),
        (["online.env", "online.noise_std", "seed"], ["env", "noise_std", "seed"]),
    ],
)
def test_a_key_has_its_group_in_a_folders_name_where_it_needs_it(keys, labels):
    assert list(RunNaming(tuple(keys)).labels.values()) == labels


@pytest.mark.parametrize("is_whole", [False, True])
def test_how_runs_are_named_is_read_from_what_names_them(is_whole):
    naming = RunNaming(("algo.lmbda", "optimizer@vae_optim"), is_whole)
    assert RunNaming.of(naming.subdir) == naming
    for other in ("${hydra.job.num}", 'x${bcq.run_folder:"a",${hydra.overrides.task}}', "a"):
        assert RunNaming.of(other) is None


def test_a_sweep_of_an_earlier_version_keeps_its_folders(tmp_path):
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_episodes=0", "-m", "name=s")
    sweep = tmp_path / "multirun" / "s"
    done = forked(*short, "algo.lmbda=0.5,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for folder in list(sweep.glob("lmbda=*")):  # as they were named then
        folder.rename(sweep / f"algo.{folder.name}")
    done = forked(*short, "algo.lmbda=0.5,1,0.25", cwd=tmp_path)
    assert "3 runs, 2 complete, 1 to train" in done.stdout, done.stderr
    names = {path.parent.name for path in sweep.glob("*/summary.json")}
    assert names == {"algo.lmbda=0.5", "algo.lmbda=1", "algo.lmbda=0.25"}


def test_drawn_numbers_are_shortened_to_different_names():
    names = [run_folder("algo.lmbda", [f"algo.lmbda=0.12345678901234{k}"]) for k in (1, 2)]
    assert all(name.startswith("lmbda=0.1235-") for name in names)
    assert names[0] != names[1]
    long = run_folder("k", [f"k={'x' * 300}"])
    assert len(long) < LONGEST_FOLDER_NAME + 20
    assert long != run_folder("k", [f"k={'x' * 301}"])


def test_one_run_of_a_sweep_is_found_again_by_a_sweep_over_seeds(tmp_path):
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "-m", "name=s")
    for seeds, said in (("0", "1 to train"), ("0,1", "1 complete, 1 to train")):
        done = forked(*short, f"seed={seeds}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    sweep = tmp_path / "multirun" / "s"
    names = {path.parent.name for path in sweep.glob("*/summary.json")}
    assert names == {"seed=0", "seed=1"}
    refused = forked(*short, "seed=2", "algo.tau=0.1", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "seed=0 among them: algo.tau (0.005 -> 0.1); choose another name" in refused.stderr
    (sweep / "seed=0").rename(sweep / "0")  # as earlier versions named it
    done = forked(*short, "seed=0", "--plan", cwd=tmp_path)
    assert "1 run, 1 complete, 0 to train" in done.stdout, done.stderr


def test_a_sweeps_file_may_fix_values(tmp_path):
    folder = tmp_path / "own" / "sweep"
    folder.mkdir(parents=True)
    params = "{algo.tau: 0.01, seed: 5}"
    content = f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}"
    (folder / "fixed.yaml").write_text(content)
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "name=s")
    short += ("--config-dir=own", "sweep=fixed")
    assert forked(*short, cwd=tmp_path).returncode == 0
    (run,) = (path.parent for path in tmp_path.glob("multirun/s/*/summary.json"))
    summary = RunRecord(run).summary()
    assert (run.name, summary["seed"], summary["config"]["algo"]["tau"]) == ("seed=5", 5, 0.01)
    done = forked(*short, "seed=6,7", "--plan", cwd=tmp_path)  # tau is not taken for a difference
    assert "2 runs, 2 to train" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["it's", r"it\'s"])
def test_the_folder_of_a_sweep_may_have_a_quote(name, tmp_path):
    done = forked("-m", "--plan", "seed=0,1", f'hydra.sweep.dir="{name}"', *TINY, cwd=tmp_path)
    assert done.stdout.startswith(f"{name}: 2 runs, 2 to train"), done.stderr


def test_a_seed_may_follow_the_swept_key(tmp_path):
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_episodes=0", "-m", "name=s")
    short += ("seed=${dataset.seed}",)
    for more in (("dataset.seed=choice(0)",), ("dataset.seed=1,2", "--plan")):
        done = forked(*short, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_basic_launcher_restarts_a_sweep_of_one_run(tmp_path):
    short = (*TINY, "trainer.num_steps=10", "trainer.eval_every=10", "-m", "name=s", "seed=0")
    short += ("hydra/launcher=basic", "resume=restart")
    sweep = tmp_path / "multirun" / "s"
    for tau in (0.1, 0.2):
        done = forked(*short, f"algo.tau={tau}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    runs = {str(path.parent.relative_to(sweep)): path.parent for path in sweep.rglob("train.csv")}
    taus = {name: RunRecord(run).summary()["config"]["algo"]["tau"] for name, run in runs.items()}
    assert taus == {"seed=0": 0.2, ".set_aside/seed=0.1": 0.1}
    assert [(state.name, state.status) for state in run_states(sweep)] == [("seed=0", "done")]
    refused = forked(*short, "hydra.sweep.subdir=x", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert refused.stderr.startswith("error: resume=restart: cannot set aside runs in folders")


@pytest.mark.parametrize("given", ["seed=0,1", "hydra/sweeper=optuna algo.lmbda=interval(0,1)"])
def test_a_file_in_place_of_multirun_is_one_line(given, tmp_path):
    (tmp_path / "multirun").write_text("")
    done = forked("-m", *given.split(), "name=s", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("cannot write ")


@pytest.mark.parametrize(
    "workers",
    ["joblib hydra.launcher.n_jobs=1.5", "submitit_local hydra.launcher.num_workers=0"],
)
def test_a_number_of_workers_that_is_none_is_one_line(workers, tmp_path):
    launcher, number = workers.split()
    pytest.importorskip(launcher.partition("_")[0])
    done = forked("-m", "seed=0,1", f"hydra/launcher={launcher}", number, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{number}: must be an integer" in done.stderr


def test_a_sweeps_runs_differ_by_what_names_them(tmp_path):
    short = ("-m", "name=s", *ANY_ALGORITHM, "trainer.num_steps=10", "trainer.eval_episodes=0")
    short += ("dataset.seed=${seed}",)
    assert forked(*short, "seed=0,1", cwd=tmp_path).returncode == 0
    refused = forked(*short, "seed=2,3", "algo.tau=0.1", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert refused.stderr.startswith("error: multirun/s holds runs with another configuration, ")
    assert "seed=0 among them: algo.tau (0.005 -> 0.1); choose another name" in refused.stderr
    other = (*short[:2], "seed=2,3", "dataset=minari", "dataset.id=a/b-v0")
    refused = forked(*other, cwd=tmp_path)  # whose data set lacks keys that theirs has
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "dataset._target_ (bcq_exp.data.datasets.load_pendulum -> " in refused.stderr
    assert refused.stderr.endswith(" more; choose another name\n")
    assert {path.name for path in tmp_path.glob("multirun/s/*/")} == {"seed=0", "seed=1"}
    refused = forked(*short, "seed=0,1", "resume=false", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "resume=false: multirun/s holds a sweep already; choose another name" in refused.stderr
    for more in (  # what is swept, then or now, is in the names
        ("seed=0,2",),
        ("seed=2,3", "algo.tau=0.1,0.005"),
        ("seed=2", "algo.tau=0.2,0.3"),
        ("seed=0,1", "algo=bc,vae_bc"),
    ):
        done = forked(*short, *more, "--plan", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "multirun" / "s" / f"seed={seed}" for seed in (0, 1))
    (first / "summary.json").write_text("")  # damaged: the other stands for both
    other = (*short, "seed=2,3", "algo.tau=0.1", "--plan")
    assert "seed=1 among them: algo.tau" in forked(*other, cwd=tmp_path).stderr
    hydra = second / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace('run_folder:"seed"', 'run_folder:"algo,seed"'))
    done = forked(*other, cwd=tmp_path)  # a group's keys are not in the names
    assert done.returncode == 0, done.stderr
    hydra.unlink()  # nobody knows what named it
    done = forked(*other, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
