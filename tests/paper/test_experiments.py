"""The plan: what there is to do, under names that say what it depends on."""

import pytest

from bcq_exp.paper import experiments
from bcq_exp.paper.experiments import make_plan
from tests.commands import compose


def of(name, overrides):
    return compose(*overrides, config_name=name)


def plan(*overrides, launcher=("hydra/launcher=vectorized",)):
    return make_plan(compose(*overrides, config_name="paper"), launcher, of)


def ids(made):
    return {(d.env, d.setting, d.seed): d.id for d in made.datasets}


@pytest.mark.slow
def test_the_counts_of_each_budget():
    full, small, tiny = (plan(f"budget={name}") for name in ("full", "small", "tiny"))
    counts = [(len(p.agents.folders), len(p.datasets), p.num_learners) for p in (full, small, tiny)]
    assert counts == [(30, 60, 300), (18, 36, 180), (2, 4, 40)]
    sizes = {d.setting: d.num_steps for d in full.datasets}
    assert sizes == {
        "final_buffer": 1_000_000,
        "concurrent": 1_000_000,
        "imitation": 1_000_000,
        "imperfect": 100_000,
    }
    for made in (full, small, tiny):
        assert len({d.id for d in made.datasets}) == len(made.datasets)
        folders = [folder for sweep in made.sweeps for folder in sweep.folders.values()]
        assert len(set(folders)) == len(folders) == made.num_learners


@pytest.mark.slow
def test_data_are_named_by_all_that_determines_them():
    before = ids(plan("budget=small"))
    assert before["Hopper-v5", "imperfect", 1].startswith("bcq_paper/Hopper-v5/imperfect-")
    changes = {
        "agent.num_steps=90000": set(before),
        "agent.start_steps=9000": set(before),
        "agent.networks=small": set(before),
        "transitions.imperfect=45000": {key for key in before if key[1] == "imperfect"},
        "learner.num_steps=10": set(),
        "agent.eval_every=1000": set(before),  # an evaluation makes no difference, a key does
    }
    for override, changed in changes.items():
        after = ids(plan("budget=small", override))
        assert {key for key in before if after[key] != before[key]} == changed, override


@pytest.mark.parametrize(("own_agents", "seeds_left"), [(True, {1, 2}), (False, {0})])
def test_data_are_left_only_for_learners_that_are_left(own_agents, seeds_left, monkeypatch):
    small = ("budget=small", "envs=[Hopper-v5]", f"own_agents={str(own_agents).lower()}")
    made = plan(*small)
    done = [folder for sweep in made.sweeps for folder in sweep.folders.values()]
    done = {folder for folder in done if "seed=0" in folder.name or "imitation" in str(folder)}
    monkeypatch.setattr(
        experiments, "steps_taken", lambda folder: made.num_steps * (folder in done)
    )
    left = made.datasets_left
    assert {data.setting for data in left} == {"final_buffer", "concurrent", "imperfect"}
    assert {data.seed for data in left} == seeds_left
    assert len(left) == 3 * len(seeds_left)


def test_who_acts_in_which_setting_and_who_learns_how():
    made = plan("budget=small", launcher=("hydra/launcher=joblib", "hydra.launcher.x=1"))
    noise = {d.setting: d.agent.name.split(",")[1] for d in made.datasets}
    assert noise == {
        "final_buffer": "noise_std=0.5",
        "concurrent": "noise_std=0.1",
        "imitation": "noise_std=0.1",
        "imperfect": "noise_std=0.1",
    }
    for sweep in made.sweeps:
        arguments = sweep.command.arguments
        assert arguments[2:4] == ("hydra/launcher=joblib", "hydra.launcher.x=1")
        grows = "trainer.concurrent_from=10000" in arguments
        assert grows == (sweep.setting == "concurrent")
        normalized = "trainer.normalize_obs=true" in arguments
        assert normalized == ("td3_bc" in {algo for algo, _ in sweep.folders})
        (id,) = [a for a in arguments if a.startswith("dataset.id=")]
        expected = {d.id for d in made.datasets if (d.env, d.setting) == (sweep.env, sweep.setting)}
        assert {id.partition("=")[2].replace("${seed}", str(s)) for s in range(3)} == expected
    shared = plan("budget=tiny")
    assert not any("${seed}" in word for sweep in shared.sweeps for word in sweep.command.words)


@pytest.mark.parametrize("algorithms", ["[bcq]", "[td3_bc]", "[bc,ddpg]"])
def test_only_what_is_asked_for_is_planned(algorithms):
    made = plan("budget=small", f"algorithms={algorithms}", "settings=[imitation]", "num_seeds=2")
    named = {algo for sweep in made.sweeps for algo, _ in sweep.folders}
    assert named == set(algorithms.strip("[]").split(","))
    assert {d.setting for d in made.datasets} == {"imitation"}
    assert {noise for _, noise, _ in made.agents.folders} == {0.1}
    assert made.num_learners == 3 * 2 * len(named)


def test_data_sets_have_the_names_of_the_published_records():
    made = next(d for d in plan("budget=small").datasets if d.setting == "final_buffer")
    assert made.id == "bcq_paper/Hopper-v5/final_buffer-644ec59a-s0-v0"
