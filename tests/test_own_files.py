"""Mistakes in a user's files of experiments and sweeps are found before Hydra reads them."""

import pytest

from bcq_exp.cli.own_files import check_own_files
from bcq_exp.errors import UserError
from tests.commands import CONF

PACKAGE = "# @package _global_\n"
MISTAKES = [
    *[
        (f"{name}:", f"{name}: has no keys; give it some or delete it")
        for name in ("algo", "trainer", "dataset", "logger", "policy", "actor", "vae", "critic")
    ],
    *[(f"{name}:", f"{name}: has no keys; give") for name in ("networks", "actor_optim", "hydra")],
    ("hydra: {launcher: }", "hydra.launcher: has no keys; give it some or delete it"),
    *[
        (line, f"{line}: to choose a file of {group}, write `- override /{group}: {choice}` below")
        for line, group, choice in (
            ("algo: bc", "algo", "bc"),
            ("online: explore", "online", "explore"),
            ("critic_optim: adamw", "optimizer@critic_optim", "adamw"),
            ("value: state", "critic@value", "state"),
            ("launcher: joblib", "hydra/launcher", "joblib"),
        )
    ],
    ("hydra: {sweeper: optuna}", "hydra.sweeper: optuna: to choose a file of hydra/sweeper, write"),
    ("sweep: seeds", "sweep: give sweep=seeds on the command line, not in a file"),
    ("experiment: ", "experiment: give experiment=NAME on the command line, not in a file"),
    (
        "defaults: [override /sweep: seeds]",
        "`override /sweep: seeds`: give sweep=seeds on the command line, not in a file",
    ),
    *[
        (f"defaults: [{entry}: paper]", f"`{entry}: paper`: write `override /networks: paper`")
        for entry in ("/networks", "networks", "override networks")
    ],
    ("launcher: {n_jobs: 2}", "launcher: belongs below hydra:, as hydra: launcher: ..."),
    ("params: {seed: 1}", "params: belongs below hydra:, as hydra: sweeper: params: ..."),
    (
        "hydra: {params: {seed: 1}}",
        "hydra.params: belongs below sweeper:, as hydra: sweep",
    ),
    (
        "hydra: {sweeper: {seed: '0,1'}}",
        "hydra.sweeper.seed: belongs below params:, as hydra: sweeper: params: seed:",
    ),
    ("hydra: {sweeper: {params: 'seed:0,1'}}", "hydra.sweeper.params: must be lines KEY: VALUES, "),
    ("hydra: {sweeper: {params: [seed]}}", "hydra.sweeper.params: must be lines KEY: VALUES, "),
    (
        "hydra: {sweeper: {params: {algo.lmbda: [0.5, 1.0]}}}",
        "hydra.sweeper.params.algo.lmbda: to sweep, write `algo.lmbda: 0.5,1.0`",
    ),
    (
        "hydra: {sweeper: {params: {actor.hidden_sizes: [[64, 64], [9]]}}}",
        "hydra.sweeper.params.actor.hidden_sizes: to sweep, write "
        '`actor.hidden_sizes: "[64,64],[9]"`',
    ),
    ("algo", "must be lines KEY: VALUE, with a space after the colon"),
    ("defaults: [mine]", "its defaults list leads back to experiment/mine; remove it there"),
    ("defaults: [/experiment: mine]", "its defaults list leads back to experiment/mine; remove"),
]
FIRST = "its first line must be '# @package _global_', as it sets keys outside its own group"


def write(folder, text, name="experiment/mine.yaml"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def refused(folder, override="experiment=mine"):
    with pytest.raises(UserError) as caught:
        check_own_files([folder], [override])
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *[(PACKAGE + content, words) for content, words in MISTAKES],
        ("defaults: [override /networks: paper]", FIRST),
        ("# a comment\n# @package _global_\nseed: 1", FIRST),
        ("\ufeff# @package _global_\nseed: 1", "begins with a byte order mark; save it as UTF-8"),
    ],
)
def test_a_mistake_names_file_key_and_remedy(text, words, tmp_path):
    write(tmp_path, text)
    assert refused(tmp_path).startswith(f"experiment/mine.yaml: {words}")


def test_a_file_of_another_ending_or_that_leads_back_is_named(tmp_path):
    write(tmp_path, PACKAGE, "sweep/mine.yml")
    assert refused(tmp_path, "sweep=mine").startswith(
        "sweep/mine.yml: rename it to sweep/mine.yaml"
    )
    write(tmp_path, f"{PACKAGE}defaults: [other]")
    write(tmp_path, f"{PACKAGE}defaults: [mine]", "experiment/other.yaml")
    assert refused(tmp_path).startswith("experiment/other.yaml: its defaults list leads back to ")


def test_a_file_of_the_first_folder_that_has_it_is_checked(tmp_path):
    write(tmp_path / "first", f"{PACKAGE}defaults: [other]")
    write(tmp_path / "second", f"{PACKAGE}algo:")
    write(tmp_path / "second", f"{PACKAGE}vae:", "experiment/other.yaml")
    with pytest.raises(UserError, match=r"^experiment/other.yaml: vae: has no keys"):
        check_own_files([tmp_path / "first", tmp_path / "second"], ["experiment=mine"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# @package algo\nlmbda: 1",
        *[
            PACKAGE + content
            for content in (
                "online:\nname:",
                "actor_optim: ${critic_optim}",
                "defaults: [_self_, /schema/algo@algo, override /critic@value: state]",
                "hydra: {sweeper: {seed: 1, params: {dataset.actions: [a], logger.tags: [a]}}}",
            )
        ],
    ],
)
def test_what_may_be_right_is_left_to_hydra(text, tmp_path):
    write(tmp_path, text or PACKAGE)
    check_own_files([tmp_path], ["experiment=mine,paper", "seed=0", "experiment=absent"])


def test_our_own_files_have_no_mistake(tmp_path):
    for path in CONF.glob("*/**/*.yaml"):  # under other names
        group = path.parent.relative_to(CONF)
        write(tmp_path, path.read_text(), f"{group}/my_{path.name}")
        check_own_files([tmp_path], [f"{group}=my_{path.stem}"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PACKAGE + "algo:", "algo: has no keys; give it some or delete it"),
        ("defaults: [mine]", "its defaults list leads back to algo/mine; remove it there"),
        ("defaults: [/algo: mine]", "its defaults list leads back to algo/mine; remove it there"),
        ("lmbda", "must be lines KEY: VALUE, with a space after the colon"),
        ("\ufefflmbda: 1", "begins with a byte order mark; save it as UTF-8 without one"),
    ],
)
def test_files_of_other_groups_are_checked_too(text, words, tmp_path):
    write(tmp_path, text, "algo/mine.yaml")
    assert refused(tmp_path, "algo=bcq,mine") == f"algo/mine.yaml: {words}"
