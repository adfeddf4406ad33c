"""The work that a run is said to take is the work of its steps."""

import json
import time

import gymnasium as gym
import pytest

from bcq_exp.training.cost import ACT_DIM, OBS_DIM, cost_of, unknown_spaces
from tests.bench.cost import random_data
from tests.commands import compose, engine_of, placement_of, spec_of


def flops(*overrides):
    return cost_of(spec_of(compose(*overrides))).step.flops


def test_products_of_an_imitating_actor_are_those_counted_by_hand():
    rows, (first, second, last) = 100, (OBS_DIM * 64, 64 * 64, 64 * ACT_DIM)
    forward, of_weights = first + second + last, first + second + last
    of_inputs = second + last
    expected = 2 * rows * (forward + of_weights + of_inputs)
    assert flops("algo=bc") == expected
    assert flops("algo=bc", "trainer.batch_size=300") == 3 * expected


def test_each_sampled_action_costs_the_same_more():
    few, more, most = (flops(f"algo.num_sampled_action={n}") for n in (5, 10, 15))
    assert most - more == more - few
    into, hidden = OBS_DIM + ACT_DIM, 64 * 64  # of the perturbation; the critics and the decoder
    decoder = (OBS_DIM + 2 * ACT_DIM) * 64 + hidden + 64 * ACT_DIM
    networks = decoder + into * 64 + hidden + 64 * ACT_DIM + 2 * (into * 64 + hidden + 64)
    assert more - few == 2 * 100 * 5 * networks


def test_a_stack_pays_its_kernels_once_and_wide_runs_pay_each():
    eager = "trainer.engine=eager"
    small, wide = (cost_of(spec_of(compose(eager, *o))) for o in ((), ("networks=paper",)))
    assert small.step_seconds(8) < 8 * small.step_seconds()
    assert wide.step_seconds(8) == 8 * wide.step_seconds()
    assert wide.step_seconds() > 5 * small.step_seconds()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp64", marks=pytest.mark.slow)])
def test_a_step_takes_on_this_machine_about_what_is_predicted(precision):
    cfg = compose("networks=tianshou", f"trainer.precision={precision}", "trainer.engine=xla")
    spec = spec_of(cfg)
    predicted = cost_of(spec).step_seconds()
    with placement_of(cfg).in_force():
        engine = engine_of([cfg], random_data(*unknown_spaces(spec.algorithm)))
        engine.advance(20)  # compiled by now
        start = time.process_time()  # of all threads, without what other processes take
        engine.advance(20)
        measured = (time.process_time() - start) / 20
    assert measured / 3 < predicted < 3 * measured


def test_steps_and_evaluations_add_up():
    cost = cost_of(spec_of(compose()))
    evaluations = 10 * cost.evaluation_seconds()
    assert cost.seconds(20_000) == pytest.approx(20_000 * cost.step_seconds() + evaluations)
    assert cost.seconds(10_000) == pytest.approx(cost.seconds(20_000) / 2)
    assert cost.seconds(10_000, 8, num_threads=2) == pytest.approx(cost.seconds(10_000, 4))
    last = cost.seconds(500) - 500 * cost.step_seconds()  # every run is evaluated at its end
    assert last == pytest.approx(cost.evaluation_seconds())


def test_evaluations_are_as_long_as_the_environments_episodes(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    online = ("algo=ddpg", "online=explore", "online.env=Hopper-v5")
    other = ("dataset=minari", "dataset.id=some/where-v0", "dataset.env=MountainCarContinuous-v0")
    absent, mine = ("dataset=hopper_medium",), ("dataset=minari", "dataset.id=my/pendulum-v0")

    def steps(*overrides):
        return cost_of(spec_of(compose(*overrides))).episode_steps

    assert (steps(), steps(*online), steps(*other)) == (200, 1000, 999)
    assert (steps(*absent), steps(*mine)) == (1000, 1000)
    spec = gym.spec("Pendulum-v1").to_json()
    (tmp_path / "my" / "pendulum-v0" / "data").mkdir(parents=True)
    metadata = tmp_path / "my" / "pendulum-v0" / "data" / "metadata.json"
    metadata.write_text(json.dumps({"env_spec": spec}))
    assert steps(*mine) == 200
    metadata.write_text("[")  # refused when it is trained
    assert steps(*mine) == 1000
