"""Every choice composes, the help names them all, and a wrong value is one clear line."""

import json
import re
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from bcq_exp.cli.choices import choices as listed_choices
from bcq_exp.config.checking import check
from bcq_exp.config.containers import interpolations, plain
from bcq_exp.config.identity import (
    cohort_signature,
    config_hash,
    differences,
    flattened,
    identity,
    report_keys,
)
from bcq_exp.config.keys import schema_of
from bcq_exp.config.naming import run_name
from bcq_exp.errors import UserError
from tests.commands import CONF, compose
from tests.forked import forked

OWN = ("logger.", "networks.", "online")  # say nothing of what a run on data learns
OPTIMIZERS = ("actor_optim", "critic_optim", "vae_optim", "value_optim")
NEEDED = {
    "minari": ["dataset.id=a/b-v0"],
    "d4rl_hdf5": ["dataset.path=a.hdf5"],
    "table": ["dataset.path=a.csv"],
    "d4rl_bcq": ["dataset.path=a.hdf5"],
    "explore": ["algo=ddpg", "online.env=Pendulum-v1"],
    "value_optim": ["algo=iql"],
    "default": ["algo=bc"],
}
NODES = {
    "experiment": None,
    "sweep": None,
    "setting": None,
    "budget": None,
}
ROOTS = {"setting": ("collect", ["id=a/b-v0"]), "budget": ("paper", [])}  # of other commands


def choices():
    """Each group of conf/ with its choices; the optimizers' three places stand for theirs."""
    found = {}
    for folder in sorted(p for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"):
        names = sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.startswith("_"))
        for group in OPTIMIZERS if folder.name == "optimizer" else (folder.name,):
            found[group] = names
    return found


CHOICES = [(group, name) for group, names in choices().items() for name in names]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_is_valid(group, name):
    node = NODES.get(group, group)
    override = f"optimizer@{group}" if group in OPTIMIZERS else group
    override += f"@{node}" if node not in (group, None) else ""
    root, given = ROOTS.get(group, ("config", []))
    needed = [*NEEDED.get(name, []), *NEEDED.get(group, []), *given]
    cfg = compose(f"{override}={name}", *needed, config_name=root, with_hydra=group == "sweep")
    check(cfg)
    if node is not None:
        assert cfg[node] != {}
        assert schema_of(cfg[node]), "the choice file names no schema"


@pytest.mark.parametrize("root", ["collect", "paper"])
def test_the_other_commands_compose_and_are_valid(root):
    required = {"collect": "id=i", "paper": "budget=full"}[root]
    check(compose(required, config_name=root))


def test_the_paper_experiment_is_the_papers_setting():
    cfg = compose("experiment=paper", "dataset=hopper_medium")
    assert cfg.actor.hidden_sizes == cfg.critic.hidden_sizes == [400, 300]
    assert cfg.vae.hidden_sizes == [750, 750]
    assert (cfg.vae.latent_dim, cfg.vae.latent_clip) == (None, 0.5)
    algo = {key: value for key, value in cfg.algo.items() if key != "_target_"}
    assert algo == {"lmbda": 0.75, "tau": 0.005, "gamma": 0.99, "num_sampled_action": 10}
    assert (cfg.policy.forward_sampled_times, cfg.actor.phi) == (100, 0.05)
    assert (cfg.trainer.num_steps, cfg.trainer.batch_size) == (1_000_000, 100)
    assert (cfg.trainer.eval_every, cfg.trainer.eval_episodes) == (5000, 10)
    assert {cfg[optim].lr for optim in OPTIMIZERS if optim in cfg} == {1e-3}


def choices_in_help(*options, cwd):
    """Each group that ``--help`` lists, with its choices."""
    done = forked("train", "--help", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.partition("Choices (group=choice)")[2].partition("\n\n")[0]
    entries = re.sub(r"\n {10,}", " ", listed).splitlines()[1:]
    split = (re.split(r"\s{2,}", entry.strip(), maxsplit=1) for entry in entries)
    return {key: names.split(", ") for key, names in split}


def test_the_help_lists_the_choices_of_the_configuration_tree(tmp_path):
    listed = choices_in_help(cwd=tmp_path)
    optimizers = listed.pop("optimizer@actor_optim|critic_optim|vae_optim")
    assert optimizers == choices()["actor_optim"]
    assert listed == {
        group: names for group, names in choices().items() if group not in (*ROOTS, *OPTIMIZERS)
    }


@pytest.mark.parametrize("option", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_the_help_lists_custom_choices(option, tmp_path):
    own = CONF.parent / "tests" / "own" / "conf"
    listed = choices_in_help(option.format(own), "algo=bc", cwd=tmp_path)
    assert "denoising" in listed["algo"] and "layernorm" in listed["critic"]
    assert listed["actor"] == ["deterministic", "gaussian", "perturbation"]


def test_a_job_that_composes_lists_no_choices_for_help(monkeypatch):
    cfg = compose(with_hydra=True)
    cfg.hydra.runtime.output_dir = "multirun/r"
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    loader = SimpleNamespace(get_group_options=lambda *_: pytest.fail("it would take a second"))
    hydra = SimpleNamespace(config_loader=lambda: loader)
    monkeypatch.setattr(GlobalHydra, "instance", lambda: hydra)
    assert listed_choices("schema") == ""


def test_a_debug_run_is_small_and_of_any_algorithm():
    for algo in ("bcq", "td3_bc"):
        cfg = compose("experiment=debug", f"algo={algo}")
        assert (cfg.trainer.num_steps, cfg.trainer.device, cfg.logger.mode) == (
            100,
            "cpu",
            "disabled",
        )


@pytest.mark.parametrize("path", sorted((CONF / "dataset").glob("*_*.yaml")), ids=lambda p: p.stem)
def test_a_data_set_has_an_experiment_with_tags(path):
    if path.stem == "d4rl_hdf5":
        pytest.skip("a format, not a data set")
    cfg = compose(f"experiment={path.stem}")
    env, level = path.stem.rsplit("_", 1)
    assert cfg.dataset.id == f"mujoco/{env}/{level}-v0"
    assert cfg.logger.tags == [env, level, "paper"]
    assert (cfg.trainer.num_steps, cfg.actor.hidden_sizes) == (1_000_000, [400, 300])


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_sweep_names_its_objective(path):
    assert "\n# Objective: the mean return" in path.read_text()
    cfg = compose(f"sweep={path.stem}", "experiment=paper")
    assert cfg.trainer.objective == "return_mean"


REFUSED = [
    ("algo.lmbda=1.5", "algo.lmbda=1.5: must be a number in [0, 1]"),
    ("algo.lmbda=nan", "algo.lmbda=nan: must be a number in [0, 1]"),
    ("algo.tau=0", "algo.tau=0.0: must be a number in (0, 1]"),
    ("algo.gamma=-0.1", "algo.gamma=-0.1: must be a number in [0, 1]"),
    ("algo.num_sampled_action=0", "an integer at least 1"),
    ("seed=-1", "seed=-1: must be an integer in [0, 4294967295]"),
    ("resume=maybe", "resume=maybe: must be one of auto, true, false, restart"),
    ("policy.forward_sampled_times=0", "an integer at least 1"),
    ("policy.action_bound_method=relu", "one of clip, tanh, null"),
    ("actor.phi=-1", "a number at least 0"),
    ("actor.hidden_sizes=[]", "a list of one or more integers, each at least 1"),
    ("critic.hidden_sizes=[64,0]", "a list of one or more integers, each at least 1"),
    ("vae.latent_dim=0", "an integer at least 1, or null"),
    ("vae.latent_clip=0", "a number above 0"),
    ("vae.kl_warmup=0", "an integer at least 1"),
    ("vae.kl_weight=-1", "a number at least 0"),
    ("actor_optim.lr=0", "a number above 0"),
    ("actor_optim.betas=[0.9]", "a list of 2 numbers, each in [0, 1)"),
    ("actor_optim.betas=[0.9,1.0]", "a list of 2 numbers, each in [0, 1)"),
    ("vae_optim.schedule=step", "one of constant, linear, cosine"),
    ("critic_optim.max_grad_norm=0", "a number above 0, or null"),
    ("critic_optim.final_lr_fraction=2", "a number in [0, 1]"),
    ("dataset.level=best", "one of expert, medium, random, mixture"),
    ("trainer.batch_size=0", "trainer.batch_size=0: must be an integer at least 1"),
    ("trainer.num_steps=0", "an integer at least 1"),
    ("trainer.objective=loss", "one of return_mean, normalized_score"),
    ("trainer.device=tpu", "auto, cpu, cuda or cuda:N"),
    ("trainer.precision=fp16", "one of auto, fp32, "),
    ("logger.mode=sometimes", "one of offline, online, disabled"),
    ("dataset=minari", "dataset.id: has no value; give dataset.id=..."),
    ("dataset=d4rl_hdf5", "dataset.path: has no value"),
    ("dataset=table", "dataset.path: has no value"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED, ids=[o for o, _ in REFUSED])
def test_a_value_out_of_range_is_one_line_with_key_and_range(override, message):
    with pytest.raises(UserError) as caught:
        check(compose(override))
    assert message in str(caught.value)
    assert str(caught.value).startswith(override.partition("=")[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "algo.lmbda=0",
        "algo.lmbda=1",
        "algo.tau=1",
        "algo.gamma=0",
        "resume=true",
        "resume=restart",
        "policy.action_bound_method=null",
        "actor.phi=0",
        "actor.hidden_sizes=[5]",
        "vae.latent_dim=3",
        "actor_optim.max_grad_norm=1",
        "trainer.device=cuda:3",
    ],
)
def test_the_edges_of_the_ranges_are_allowed(override):
    check(compose(override))


@pytest.mark.parametrize("key", ["actor_optim.lr", "actor.phi", "vae.kl_weight"])
def test_infinity_is_refused(key):
    with pytest.raises(UserError):
        check(compose(f"{key}=inf"))


IDENTITY = [
    ("seed=1", False),
    ("algo.lmbda=0.5", False),
    ("actor.hidden_sizes=[8]", False),
    ("trainer.eval_episodes=3", False),
    ("dataset.seed=2", False),
    ("name=other", True),
    ("resume=true", True),
    ("logger.tags=[a]", True),
    ("trainer.num_steps=99", True),
    ("trainer.device=cpu", True),
    ("trainer.num_threads=2", True),
]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_number_of_steps_is_identity_with_a_learning_rate_schedule(schedule):
    scheduled = f"critic_optim.schedule={schedule}"
    one, more = (plain(compose(scheduled, f"trainer.num_steps={n}")) for n in (120, 240))
    assert config_hash(one) != config_hash(more)
    assert list(differences(identity(one), identity(more)).values()) == [
        f"critic_optim.schedule ({schedule} over 120 steps -> {schedule} over 240 steps)"
    ]


@pytest.mark.parametrize("key", ["use_cache", "download"])
def test_cache_and_download_are_not_identity(key):
    given = ["dataset=minari", "dataset.id=a/b-v0"]
    one, other = (plain(compose(*given, f"dataset.{key}={x}")) for x in ("true", "false"))
    assert config_hash(one) == config_hash(other)
    assert report_keys(one) == report_keys(other)


@pytest.mark.parametrize(("override", "same"), IDENTITY, ids=[o for o, _ in IDENTITY])
def test_the_hash_changes_with_the_identity_alone(override, same):
    one, other = (
        config_hash(OmegaConf.to_container(compose(*o), resolve=True)) for o in ([], [override])
    )
    assert (one == other) is same


def test_runs_of_earlier_versions_keep_their_identity():
    now = plain(compose())
    before = {k: v for k, v in now.items() if k not in ("networks", "online")}
    assert config_hash(before) == config_hash(now)
    now = plain(compose("algo=ddpg", "online=explore", "online.env=Pendulum-v1"))
    before = {k: v for k, v in now.items() if k not in ("networks", "online")}
    before["dataset"] = now["online"]
    assert identity(before) == identity(now) and report_keys(before) == report_keys(now)
    assert identity(now)["online.env"] == "Pendulum-v1"


def meanings(which):
    """Keys of BCQ's configuration with that meaning, and those without."""
    cfg = compose("trainer.device=cpu")
    every = dict(flattened(OmegaConf.to_container(cfg, resolve=True)))
    if which == "shared":
        return every.keys(), set(json.loads(cohort_signature(plain(cfg), cfg)))
    return every.keys(), report_keys(OmegaConf.to_container(cfg, resolve=True)).keys()


def test_stacked_runs_may_differ_in_the_numbers_of_the_equations_and_in_what_is_their_own():
    every, shared = meanings("shared")
    free = {k for k in every - shared if not k.startswith(OWN + OPTIMIZERS)}
    assert free == {
        "seed", "name", "resume", "algo.lmbda", "algo.tau", "algo.gamma", "actor.phi",
        "vae.latent_clip", "vae.kl_weight", "policy.forward_sampled_times",
        "trainer.eval_episodes", "trainer.eval_seed", "trainer.objective", "trainer.fqe_steps",
    }  # fmt: skip
    assert {"algo._target_", "algo.num_sampled_action", "trainer.num_steps"} <= shared


def test_the_keys_by_which_reports_group_runs():
    every, told = meanings("compared")
    left = {k for k in every - told if not k.startswith((*OWN, "dataset."))}
    assert left == {
        "name", "resume", "trainer.device", "trainer.num_threads",
        "trainer.log_every", "trainer.eval_every", "trainer.eval_episodes", "trainer.eval_seed",
        "trainer.checkpoint_every", "trainer.objective", "trainer.fqe_steps", "trainer.engine",
    }  # fmt: skip


def test_algorithms_of_other_classes_are_not_one_cohort():
    one, other = (compose(*o) for o in ([], ["algo._target_=tests.test_every_key.OtherBCQ"]))
    assert cohort_signature(plain(one), one) != cohort_signature(plain(other), other)


@pytest.mark.parametrize("name", ["a b", "lr=0.1,seed=2", "x.1", "2026-01-01_x"])
def test_a_name_is_the_folder(name):
    assert run_name(name, "auto") == name


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(UserError, match="name="):
        run_name(name, "auto")


def test_runs_without_a_name_get_names_of_their_own():
    assert len({run_name(None, "auto") for _ in range(20)}) == 20


def test_resume_without_a_name_is_the_latest_run(tmp_path, monkeypatch):
    import os

    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("young", "old")):
        path = tmp_path / "multirun" / name / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "multirun" / "unsaved").mkdir()
    assert run_name(None, True) == "young"


@pytest.mark.parametrize(
    ("given", "launcher"),
    [
        (["budget=tiny"], "vectorized"),
        (["budget=small"], "joblib"),
        (["budget=full"], "vectorized"),
        (["budget=small", "hydra/launcher=ray"], "ray"),
    ],
)
def test_a_budget_has_its_launcher_unless_another_is_asked_for(given, launcher):
    cfg = compose(*given, config_name="paper", with_hydra=True)
    assert cfg.hydra.runtime.choices["hydra/launcher"] == launcher


@pytest.mark.parametrize(
    "given", ["seed=3", "logger.group='run ${seed}'", "logger.tags=['${name}',b]"]
)
def test_a_plain_configuration_is_what_omegaconf_makes_of_it(given):
    cfg = compose("experiment=paper", "name=n", given)
    assert plain(cfg) == OmegaConf.to_container(cfg, resolve=True)
    assert ("logger" in interpolations(cfg)) == ("$" in given)
    assert interpolations(cfg)["vae"] == ["${networks.vae_hidden_sizes}"]
