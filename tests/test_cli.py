"""The command itself: mistakes are one line and leave nothing behind; a sweep; help."""

import shlex

import pytest
import torch
from omegaconf import OmegaConf

import bcq_exp as bcq_exp_package
from bcq_exp.cli.explain import one_line
from bcq_exp.cli.grammar import in_quotes, parsed
from bcq_exp.training.record import RunRecord
from tests.commands import TINY, bcq_exp
from tests.forked import forked

REPLACED = "trainer.capture was replaced by trainer.engine=auto|eager|xla|cuda_graph"
MISTAKES = [
    (["algo.lmbda=1.5"], "algo.lmbda=1.5: must be a number in [0, 1]"),
    (["algo.tau=0"], "algo.tau=0.0: must be a number in (0, 1]"),
    (["trainer.batch_size=0"], "trainer.batch_size=0: must be an integer at least 1"),
    (["seed=-1"], "seed=-1: must be an integer in [0, 4294967295]"),
    (
        ["algo.lambda=0.5"],
        "algo.lambda: no such key of BCQ; there are gamma, lmbda, ",
    ),
    (["+trainer.capture=auto"], REPLACED),
    (["traner.batch_size=1"], "traner"),
    (["trainer.num_steps=many"], "trainer.num_steps=many: must be an integer at least 1"),
    (
        ["policy.action_scaling=perhaps"],
        "policy.action_scaling=perhaps: must be one of auto, true, false",
    ),
    (["actor.hidden_sizes=64"], "actor.hidden_sizes"),
    (["algo.lmbda=[0.5, 0.9]"], "in [0, 1]; to sweep, write algo.lmbda=0.5,0.9 with -m"),
    (["seed=[0,1]"], "; to sweep, write seed=0,1 with -m"),
    (["trainer.num_steps=1e4"], "must be an integer at least 1; write 10000"),
    (["algo.lmbda=0.5,1"], "several values need a sweep; add -m, or write one number without a"),
    (["algo=bcq,bc"], "algo=bcq,bc: several values need a sweep; add -m\n"),
    (["logger.tags=a,b"], "add -m, or write logger.tags=[a,b] for a list"),
    (["logger.group=a,b"], """add -m, or write 'logger.group="a,b"' for text with a comma"""),
    (["actor.hidden_sizes=[[64,64]]"], "each at least 1; write actor.hidden_sizes=[64,64]"),
    (["actor.hidden_sizes=[[64],[256,9]]"], "write actor.hidden_sizes=[64],[256,9] with -m"),
    (["actor.hidden_sizes=[{a:1}]"], "must be a list of one or more integers, each at least 1"),
    (["~actor"], "actor: must not be removed"),
    (["~optimizer@actor_optim"], "actor_optim: must not be removed"),
    (
        ["-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"],
        "hydra.sweeper.max_batch_size=0: must be an integer at least 1, or null",
    ),
    (["+experiment=paper"], "+experiment=paper: leave out the +; write experiment=paper"),
    (["-m", "++sweep=seeds"], "++sweep=seeds: leave out the +; write sweep=seeds"),
    (["-m", "seed=0,", "1"], "without spaces and without a comma at the end, as in seed=0"),
    (["seed=0;1"], "seed=0;1: must be one number; to sweep, write seed=A,B with -m"),
    (["networks=[9,9]"], "networks=[9,9]: must name one of the group's choices"),
    (["seed=(0,1,2)"], "seed=(0,1,2): write seed=0,1,2 with -m for these values\n"),
    (["seed==1"], "seed==1: write seed=1, with one equals sign"),
    (["algo.lmbda =1"], "algo.lmbda =1: write algo.lmbda=1, without spaces"),
    (["algo.lmbda={0.5,1}"], "write algo.lmbda=0.5,1 with -m for these values, or "),
    (["algo.lmbda=linspace(0,1,5)"], "there is no function linspace; list the values, as in "),
    (["-m", "seed=range(0,3"], "seed=range(0,3: close the bracket: seed=range(0,3)"),
    (["actor.hidden_sizes=(9,9)"], "actor.hidden_sizes=(9,9): write actor.hidden_sizes=[9,9]"),
    (["actor.hidden_sizes=[9,", "9]"], "write the list without spaces, as in actor.hidden_sizes=["),
    (
        ["-m", "algo.lmbda=interval(0,1)"],
        "algo.lmbda=interval(0,1): only a search takes an interval; add hydra/sweeper=optuna, or",
    ),
    (
        ["-m", "hydra.sweeper.params={seed:[0,1]}"],
        "give swept values as KEY=VALUES with -m, such as -m seed=0,1",
    ),
    (["algo=bc", "algo.lmbda=1"], "algo.lmbda: no such key of BC; there are none"),
    (
        ["dataset.path=x.csv"],
        "no such key of dataset=pendulum; there are holdout, level, ",
    ),
    (["dataset.env=x"], "; to set it, choose dataset=minari|d4rl_hdf5|table"),
    (["online.env=x"], "; to set it, choose online=explore"),
    (["dataset=x.csv"], "dataset=x.csv: no such choice; write dataset=table dataset.path=x.csv"),
    (["dataset=a/b/c-v0"], "no such choice; write dataset=minari dataset.id=a/b/c-v0"),
    (["--dry-run"], "--dry-run: no such option; did you mean --plan?"),
    (["--sweep", "seed=0,1"], "--sweep: no such option; did you mean -m?"),
    (["actor.hidden_sizes=[64,a]"], "actor.hidden_sizes[1]: Value 'a' of type 'str' could not be"),
    (["lmbda=0.5"], "did you mean algo.lmbda?"),
    (["algo.lmbda"], "algo.lmbda: must be KEY=VALUE"),
    (["--lmbda=0.5"], "--lmbda=0.5: no such option (see --help); keys are given as KEY=VALUE"),
    (["~trainer"], "trainer: must not be removed"),
    (["~algo.lmbda"], "algo.lmbda: must not be removed"),
    (["sweep=null"], "sweep=null: must name one of the group's choices, or be left out"),
    (["actor_optim=sgd"], "actor_optim=sgd: choose it with optimizer@actor_optim=sgd"),
    (
        ["actor_optim=sgd", "actor_optim.lr=0.1"],
        "actor_optim=sgd: choose it with optimizer@actor_optim=sgd",
    ),
    (["hydra.mode=multirun"], "hydra.mode=multirun: must be one of RUN, MULTIRUN"),
    (["hydra.run=null"], "hydra.run=null: must be a node of keys, not a value"),
    (
        ["sweep=asha_lmbda_tau_n"],
        "sweep=asha_lmbda_tau_n was replaced by sweep=halving_lmbda_tau_n",
    ),
    (
        ["-m", "hydra.sweeper=null"],
        "hydra.sweeper: must be one of the choices of hydra/sweeper=NAME",
    ),
    (["sweep=seeds", "hydra.sweeper.params.seed=null"], "hydra.sweeper.params.seed: needs a value"),
    (["actor=huge"], "actor=huge: no such choice; there are deterministic, gaussian, perturbation"),
    (["optimizer@actor_optim=lion"], "there are adam, adamw, rmsprop, sgd"),
    (["actr=gaussian"], "actr: no such key of BCQ; there are actor, "),
    (["actor=paper"], "actor=paper was replaced by networks=paper, or actor.hidden_sizes=[...]"),
    (
        ["deterministic_actor@actor=small"],
        "actor=small was replaced by actor=deterministic, with its sizes in networks=small",
    ),
    (["dataset=online"], "error: dataset=online was replaced by online=explore"),
    (["-m", "dataset=online,pendulum"], "error: dataset=online was replaced by online=explore"),
    (["-m", "actor=small,paper"], "error: actor=small was replaced by networks=small"),
    (["dataset.start_steps=9"], "dataset.start_steps was replaced by online.start_steps"),
    (
        ["online=explore", "dataset=minari"],
        "dataset=minari: leave it out; online=explore collects its own data",
    ),
    (
        ["algo=ddpg", "online=explore", "online.env=Pendulum-v1"],
        "error: trainer.num_steps=10000: must be above online.start_steps=25000, the steps before",
    ),
    (
        [
            "-m",
            "algo=ddpg",
            "online=explore",
            "online.env=Pendulum-v1",
            "online.start_steps=0,10000",
        ],
        "error: trainer.num_steps=10000: must be above online.start_steps=10000, the steps before",
    ),
    (["seed={a:1}"], "seed={'a': 1}: must be an integer in [0, 4294967295]"),
    (["resume={}"], "resume={}: must be one of auto, true, false, restart"),
    (["policy.action_scaling={}"], "policy.action_scaling={}: must be one of auto, true, false"),
    (["name=n", "logger.tags=${name}"], "logger.tags=n: must be a list of strings"),
    (["seed=[]"], "seed=[]: must be an integer in [0, 4294967295]\n"),
    (["algo.lmbda=${nope}"], "error: algo.lmbda: Interpolation key 'nope' not found"),
    (["seed=${oc.env:NOPE}"], "error: seed: Environment variable 'NOPE' not found"),
    (["name=???"], "error: name: has no value; give name=..."),
    (["=5"], "=5: must be KEY=VALUE"),
    (["hydra=null"], "hydra=null: must name one of the group's choices"),
    (["trainer=5"], "trainer=5: must name one of the group's choices"),
    (["algo.lmbda=[1"], "algo.lmbda=[1: cannot be parsed; check that every bracket"),
    (["algo.lmbda=${"], "algo.lmbda=${: cannot be parsed; check that every bracket"),
    (["+algo.extra=1"], "algo.extra"),
    (["dataset=minari"], "dataset.id: has no value; give dataset.id=..."),
    (["name=../outside"], "name=../outside: must be of letters, digits"),
    (["name=" + "a" * 300], "name=aaaaaaaaaaaaaaaaaaaa...: must have at most 180 bytes, not 300"),
    (["logger.group=ünï"], """logger.group=ünï: needs quotes; write 'logger.group="ünï"'"""),
    (["logger.tags=a"], "1 to 64 characters (W&B's limit); write 'logger.tags=[a]'"),
    (["logger.tags=a#b"], """logger.tags=a#b: needs quotes; write 'logger.tags=["a#b"]'"""),
    (["logger.tags=a b"], """logger.tags=a b: must be a list of strings"""),
    (["logger.tags=[a#b,c]"], """needs quotes; write 'logger.tags=["a#b",c]'"""),
    (["logger.project=a/b"], r"logger.project=a/b: must be 1 to 128 characters, none of / \ # ? %"),
    (
        ["logger.tags=[" + "a" * 65 + "]"],
        "a list of strings, each 1 to 64 characters (W&B's limit)",
    ),
    (["logger.group=" + "a" * 129], "a: must be 1 to 128 characters (W&B's limit)"),
    (["dataset=d4rl_hdf5", "dataset.path=a=b"], """needs quotes; write 'dataset.path="a=b"'"""),
    (
        ["algo=bc", "actor=perturbation"],
        "Perturbation: BC needs a network of kind Actor; use actor=deterministic",
    ),
    (["algo=iql", "critic@value=state_action"], "kind StateCritic; use critic@value=state"),
    (
        ["name=n1,n2"],
        """name=n1,n2: several values need a sweep; add -m, or write 'name="n1,n2"'""",
    ),
    (["hydra/sweeper=optuna"], "error: hydra/sweeper=optuna: only used by a sweep; add -m"),
    (["hydra.sweeper.max_batch_size=3"], "max_batch_size=3: only used by a sweep; add -m"),
    (["hydra/launcher=joblib"], "error: hydra/launcher=joblib: only used by a sweep; add -m"),
    (
        ["hydra.sweep.dir=x"],
        "hydra.sweep.dir=x: only used by a sweep; add -m, or set hydra.run.dir",
    ),
    (
        ["-m", "hydra.run.dir=x", "seed=0,1"],
        "error: hydra.run.dir=x: only used by a single run; set hydra.sweep.dir",
    ),
    (
        ["sweep=[seeds,phi_gamma]"],
        "sweep=[seeds,phi_gamma]: give one sweep=, and launch the other under another name",
    ),
    (["hydra.searchpath=[nope]"], "error: hydra.searchpath: there is no folder or package nope"),
    (
        ["-m", "seed=0,1", "hydra.searchpath=[file:///nope]"],
        "error: hydra.searchpath: there is no folder or package /nope",
    ),
    (["collect", "-m", "seed=0,1"], "error: -m: only used by bcq_exp train; leave it out"),
    (["collect", "hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: leave it out; only bcq_exp train"),
    (["collect", "seed=0,1"], "seed=0,1: must be one value; only bcq_exp train sweeps"),
    (["resume=true"], "resume=true: multirun/ holds no run"),
    (["-m", "resume=true", "seed=0,1"], "resume=true: give the name= of the sweep"),
    (["resume=true", "name=absent"], "resume=true: multirun/absent holds no run"),
    (["-m", "resume=true", "name=absent", "seed=0,1"], "true: multirun/absent holds no sweep;"),
]


def assert_one_error(done, message):
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_with_status_2_and_no_folder(args, message, tmp_path):
    done = forked(*args, cwd=tmp_path)
    assert_one_error(done, message)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


FILES = {
    "experiment=typo": ("algo: {lmda: 1}", "experiment/typo.yaml: algo.lmda: no such key of BCQ"),
    "experiment=old": ("trainer: {capture: eager}", f"experiment/old.yaml: {REPLACED}"),
    "experiment=kind": ("algo: {lmbda: x}", "experiment/kind.yaml: algo.lmbda=x: must be a number"),
    "experiment=dots": ("algo.lmbda: 1", "algo.lmbda: a key in a file has no dots"),
    "experiment=number": (
        "trainer: {num_steps: 1e4}",
        "must be an integer at least 1; write 10000",
    ),
    "experiment=choice": ("defaults: [mine/algo: bc]", "write `override /GROUP: CHOICE`"),
    "experiment=twice": (
        "defaults: [/actor: gaussian]",
        "actor: chosen twice; write `override /actor: gaussian` in the defaults list",
    ),
    "experiment=unread": (
        "wandb: {a: 1}",
        "; delete it, or choose an algo= that reads",
    ),
    "experiment=above": ("lmbda: 1", "; did you mean algo.lmbda?"),
    "experiment=integer": ("1: 2", "error: 1: no such key; there are algo, dataset"),
    "experiment=colon": ("algo:lmbda: 1", "algo:lmbda: needs a space after its colon"),
    "experiment=env": (
        "online: {env: x}",
        "online: choose online=explore, in a file with `override /online: explore`",
    ),
    "experiment=node": (
        "trainr: {num_steps: 5}",
        "trainr: not read by BCQ; did you mean trainer?",
    ),
    "experiment=slash": (
        "defaults: [override networks: paper]",
        "`override networks: paper`: write `override /networks: paper`",
    ),
    "experiment=swept": (
        "hydra: {sweeper: {params: {seed: '0,1'}}}",
        "hydra.sweeper.params: sweeps seed, and this is a single run; add -m",
    ),
    "experiment=searches": (
        "defaults: [override /hydra/sweeper: optuna]",
        "hydra/sweeper=optuna: only used by a sweep; add -m",
    ),
    "sweep=nested": (
        "hydra: {sweeper: {params: {algo: {lmbda: '0.5,1'}}}}",
        "hydra.sweeper.params.algo: must not be nested; write the full key in one line",
    ),
    "sweep=nothing": ("hydra: {mode: MULTIRUN}", "sweep=nothing: its file sweeps no key"),
    "sweep=novalue": ("hydra: {sweeper: {params: {seed: }}}", "hydra.sweeper.params.seed: needs a"),
}


ELSEWHERE = [  # in a package, whose files are not checked before Hydra reads them
    ("experiment=mine", "# @package _global_\nalgo:", "algo: must have keys; give it some, or"),
    ("experiment=mine", "# @package _global_\nnetworks:", "networks: must have keys; give it some"),
    ("experiment=mine", "# @package _global_\nactor:", "actor: must have keys; give it some, or"),
    ("algo=mine", "defaults: [mine]", "the defaults list of a file leads back to the file; remove"),
    ("algo=mine", "defaults: [/algo: mine]", "the defaults list of a file leads back to the file"),
]


@pytest.mark.parametrize(("choice", "content", "message"), ELSEWHERE)
def test_a_mistake_in_a_file_of_a_package_is_one_line_too(choice, content, message, tmp_path):
    write_choice(tmp_path, choice, content, package="")
    (tmp_path / "own" / "__init__.py").touch()
    done = forked("hydra.searchpath=[pkg://own]", choice, cwd=tmp_path)
    assert_one_error(done, message)
    assert not (tmp_path / "multirun").exists()


def write_choice(folder, choice, content, package="# @package _global_"):
    group, _, name = choice.partition("=")
    path = folder / "own" / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{package}\n{content}\n")


@pytest.mark.parametrize("choice", FILES)
def test_a_mistake_in_a_file_is_one_line_that_names_key_and_remedy(choice, tmp_path):
    content, message = FILES[choice]
    write_choice(tmp_path, choice, content)
    assert_one_error(forked("--config-dir=own", choice, cwd=tmp_path), message)
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize("place", ["file://own", "own", "file://{}/own"])
def test_a_mistake_in_a_file_of_the_search_path_names_the_file(place, tmp_path):
    write_choice(tmp_path, "experiment=mine", "algo:")
    place = place.format(tmp_path)
    done = forked(f"hydra.searchpath=[pkg://none,{place}]", "experiment=mine", cwd=tmp_path)
    assert_one_error(done, "error: experiment/mine.yaml: algo: has no keys; give it some or delete")


def test_a_file_of_another_group_without_its_package_line_is_one_line(tmp_path):
    write_choice(tmp_path, "mine=a", "algo: {lmbda: 1}", package="")
    done = forked("--config-dir=own", "+mine=a", cwd=tmp_path)
    assert_one_error(done, "outside its own group with '# @package _global_'")


def test_the_version_is_that_of_bcq_exp(tmp_path):
    for words in (["--version"], ["evaluate", "--version"]):
        assert forked(*words, cwd=tmp_path).stdout == f"bcq_exp {bcq_exp_package.__version__}\n"


def test_a_sweep_or_a_file_is_no_run(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "multirun.yaml").touch()
    done = forked("evaluate", "s", cwd=tmp_path)
    assert_one_error(done, "run=s: is a sweep; give the folder of one of its runs")
    done = forked("export", "s/multirun.yaml", cwd=tmp_path)
    assert_one_error(done, "run=s/multirun.yaml: is a file; give the folder of a run, s")


def test_the_override_that_a_message_suggests_has_the_intended_value(tmp_path):
    lists = ("logger.tags=[a#b,c]", "logger.tags=a#b,c")
    for wrong in ("logger.group=ünï", *lists, "logger.group='", "logger.group=a(b"):
        hint = forked(wrong, cwd=tmp_path).stderr.rpartition("needs quotes; write ")[2]
        (override,) = shlex.split(hint)
        assert override != wrong
        shown = forked(override, "--cfg", "job", cwd=tmp_path).stdout
        key, _, value = wrong.partition("=")
        node = OmegaConf.create(shown)
        meant = ["a#b", "c"] if wrong in lists else value
        assert OmegaConf.select(node, key) == meant


def test_an_experiments_file_sets_seed_and_name_too(tmp_path):
    write_choice(tmp_path, "experiment=mine", "seed: 7")
    shown = forked("--config-dir=own", "experiment=mine", "--cfg", "job", cwd=tmp_path).stdout
    assert OmegaConf.create(shown).seed == 7


@pytest.mark.parametrize(
    ("args", "num_runs"),
    [
        (["sweep=seeds"], 10),
        (["sweep=seeds", "algo.lmbda=0.5,1"], 20),  # without -m
        (["sweep=seeds", "seed=0,1"], 2),
        (["sweep=seeds", "++seed=0,1"], 2),
        (["-m", "++seed=0,1"], 2),
        (["-m", "actor_optim={lr:0.1},{schedule:linear},{lr:0.1,schedule:linear}"], 3),
        (["sweep=seeds", "hydra.mode=RUN"], 10),
        (["--config-dir=own", "sweep=no_mode"], 2),
    ],
)
def test_a_choice_of_sweep_is_a_sweep_always(args, num_runs, tmp_path):
    write_choice(tmp_path, "sweep=no_mode", "hydra: {sweeper: {params: {algo.lmbda: '0.5,1'}}}")
    done = forked(*args, "name=s", "--plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"multirun/s: {num_runs} runs, {num_runs} to train" in done.stdout


LATE = [
    pytest.param(
        ["dataset=minari", "dataset.id=no/such-v0", "dataset.download=false"],
        "no/such-v0",
    ),
    pytest.param(["dataset=d4rl_hdf5", "dataset.path=none.hdf5"], "none.hdf5"),
    pytest.param(
        ["dataset=d4rl_hdf5", "dataset.path=."], "is a folder; give one of its HDF5 files"
    ),
    pytest.param(
        ["online=explore", "online.env=Nope-v5", "online.start_steps=0"],
        "; set online.env to an id it knows,",
    ),
    pytest.param(
        ["trainer.batch_size=99999999999", "dataset.num_steps=2000", "logger=none"],
        "not enough memory (",
    ),
    pytest.param(
        ["trainer.device=cuda", "dataset.num_steps=2000"],
        "trainer.device=cuda: this machine has 0 CUDA devices",
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    ),
]


@pytest.mark.parametrize(("args", "message"), LATE)
def test_what_cannot_be_had_is_one_line_with_status_2(args, message, tmp_path):
    done = forked(*args, "name=x", cwd=tmp_path)
    assert_one_error(done, message)
    assert not (tmp_path / "multirun" / "x" / "summary.json").exists()
    with_that_name = forked("name=x", "algo.tau=2", cwd=tmp_path)  # the name is not spoilt
    assert_one_error(with_that_name, "algo.tau=2.0")


def test_a_sweeps_mistake_is_one_line_too(tmp_path):
    assert_one_error(forked("-m", "algo.lmbda=1.5", cwd=tmp_path), "algo.lmbda=1.5: must be")


def test_options_may_stand_anywhere_among_the_overrides(tmp_path):
    done = forked("algo.gamma=0.9", "-m", "algo.lmbda=0.5,2", cwd=tmp_path)
    assert_one_error(done, "algo.lmbda=2.0: must be a number in [0, 1]")
    shown = forked("algo.gamma=0.5", "--cfg", "job", "algo.lmbda=0.25", cwd=tmp_path)
    assert shown.returncode == 0
    assert "lmbda: 0.25" in shown.stdout and "gamma: 0.5" in shown.stdout


@pytest.mark.parametrize("command", ["train", "collect"])
def test_help_shows_usage_and_keys_and_runs_nothing(command, tmp_path):
    done = forked(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"bcq_exp {command} " in done.stdout
    assert "seed: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_trains_each_combination_in_a_folder_of_its_own(trained, tmp_path):
    done = bcq_exp("-m", *TINY, "seed=0,1", "name=s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "multirun" / "s" / f"seed={k}" for k in (0, 1))
    # seed 0 is seed 0, whoever launched it; in a stack its sums round otherwise
    for row, alone in zip(*(RunRecord(f).rows("train") for f in (first, trained)), strict=True):
        assert row == pytest.approx(alone, rel=0.05, abs=0.01)
    assert RunRecord(first).rows("train") != RunRecord(second).rows("train")
    assert [RunRecord(f).summary()["seed"] for f in (first, second)] == [0, 1]
    refused = forked(*TINY, "name=s", cwd=tmp_path)
    assert_one_error(refused, "holds a sweep; choose another name")


def test_a_run_shows_what_it_did(trained, common):
    shown = (common / "trained.out").read_text()
    assert "behaviour's return" in shown
    assert "step 30: return" in shown
    assert "step 60: return" in shown
    assert "over 2 episodes" in shown
    assert shown.splitlines()[-1].endswith(f"bcq_exp compare {trained.relative_to(common)}")
    assert "\x1b" not in shown  # no bar where there is no terminal
    log = (trained / "run.log").read_text()
    assert all(line.split("] ")[-1].strip() in log for line in shown.splitlines() if "step" in line)


def test_an_error_that_is_its_own_cause_is_reported():
    inner, outer = ValueError("inner"), RuntimeError("outer")
    inner.__context__, outer.__cause__ = outer, inner
    assert one_line(outer) == "outer"


BRIEF = (*TINY, "trainer.num_steps=4", "trainer.eval_every=4")


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("plain", "name=plain"), ("2024_01_05", 'name="2024_01_05"'), ("a=b=1", 'name="a=b=1"')],
)
def test_a_name_is_text_and_recorded_in_quotes_only_where_hydra_would_misread_it(
    name, recorded, tmp_path
):
    given = (*BRIEF, "logger.group=${name}", "seed=${trainer.log_every}")
    assert forked(*given, f"name={name}", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "multirun").iterdir()
    assert folder.name == name
    summary = RunRecord(folder).summary()
    assert summary["command"] == "bcq_exp train " + shlex.join([*given, recorded])
    overrides = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    assert overrides == [*given, recorded]


@pytest.mark.parametrize("text", ["it's", 'a"b', r"a\b", r"a\"b", "a\\", "a, b"])
def test_a_text_in_quotes_is_read_as_it_is(text):
    given = parsed(f"logger.group={in_quotes(text)}")
    assert given is not None and given.value() == text


@pytest.mark.parametrize("file", ["config.yaml", "hydra.yaml"])
def test_a_full_disk_where_hydra_writes_is_named_and_is_no_mistake(file, tmp_path):
    folder = tmp_path / "multirun" / "r" / ".hydra"
    folder.mkdir(parents=True)
    (folder / file).symlink_to("/dev/full")
    done = forked(*TINY, "name=r", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "cannot write a file: No space left on device\n"
