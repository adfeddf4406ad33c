import json
import logging
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box

from bcq_exp import collect
from bcq_exp.data import behaviour, env_scores, env_specs
from bcq_exp.data import minari_files as reader
from bcq_exp.data.datasets import load_minari
from bcq_exp.data.spaces import check_action_space
from bcq_exp.data.transitions import DataError

NESTED = spaces.Dict(
    {
        "z": Box(-np.inf, np.inf, (2,), np.float64),
        "a": spaces.Tuple([Box(-9, 9, (2, 2), np.float32), Box(-9, 9, (1,), np.float64)]),
    }
)


def nested_observations(episode, length):
    rng = np.random.default_rng(episode)

    def draw(*shape):
        return rng.normal(size=(length + 1, *shape)).astype(np.float32)

    return {"z": draw(2).astype(float), "a": (draw(2, 2), draw(1).astype(float))}


def test_values_and_edges(minari_files):
    dataset = load_minari(minari_files.write(lengths=(3, 2)))
    steps = dataset.transitions
    assert steps.obs[:, 0].tolist() == [0, 10, 20, 100, 110]
    assert steps.obs_next[:, 0].tolist() == [10, 20, 30, 110, 120]
    assert steps.obs_next[:, 1].tolist() == [11, 21, 31, 111, 121]
    assert steps.act[:, 0] == pytest.approx([0, 0.1, 0.2, 0, 0.1])
    assert steps.rew == pytest.approx([0, 0.1, 0.2, 1, 1.1])
    assert steps.terminated.tolist() == [False, False, True, False, False]
    assert steps.truncated.tolist() == [False, False, False, False, True]
    assert {array.dtype for array in (steps.obs, steps.act, steps.rew)} == {np.dtype(np.float32)}


def test_facts_about_the_data(minari_files):
    dataset = load_minari(minari_files.write(lengths=(3, 2)))
    assert dataset.id == "test/toy-v0"
    assert dataset.episode_lengths.tolist() == [3, 2]
    assert dataset.episode_returns == pytest.approx([0.3, 2.1])
    assert dataset.behaviour_return == pytest.approx(1.2)
    assert dataset.observation_space.shape == (2,)
    assert dataset.action_space == Box(-1.0, 1.0, (1,), np.float32)
    assert dataset.env_spec is None
    assert dataset.reference_scores is None
    assert dataset.normalized_score(1.0) is None


def test_a_recording_that_just_stops_is_truncated(minari_files):
    steps = load_minari(minari_files.write(ends=("neither", "terminated"))).transitions
    assert steps.truncated.tolist() == [False, False, True, False, False]
    assert steps.terminated.tolist() == [False, False, False, False, True]


def test_nested_observations_are_flattened_as_gymnasium_does(minari_files):
    dataset = load_minari(
        minari_files.write(observation_space=NESTED, observations=nested_observations)
    )
    stored = nested_observations(0, 3)
    expected = [
        spaces.flatten(NESTED, {"z": stored["z"][t], "a": tuple(a[t] for a in stored["a"])})
        for t in range(4)
    ]
    assert dataset.transitions.obs[:3] == pytest.approx(np.array(expected[:3]))
    assert dataset.transitions.obs_next[:3] == pytest.approx(np.array(expected[1:]))
    assert dataset.observation_space.shape == (7,)


@pytest.mark.parametrize("nested", [False, True])
def test_the_general_reader_agrees_with_the_fast_one(minari_files, monkeypatch, nested):
    kinds = {"observation_space": NESTED, "observations": nested_observations} if nested else {}
    id = minari_files.write(**kinds)
    fast = load_minari(id, use_cache=False)
    monkeypatch.setattr(reader, "_read_hdf5", reader._read_any)
    assert load_minari(id, use_cache=False).content_hash == fast.content_hash


def test_reference_scores_of_the_metadata_come_first(minari_files):
    id = minari_files.write(env="Pendulum-v1", ref_min_score=10.0, ref_max_score=30.0)
    dataset = load_minari(id)
    assert dataset.reference_scores == (10.0, 30.0)
    assert dataset.normalized_score(15.0) == pytest.approx(25.0)
    minari_files.edit_metadata(id, ref_min_score=None)
    assert load_minari(id).reference_scores == pytest.approx((-1196.757, -150.479))


def test_reference_scores_of_another_environment_are_not_kept(minari_files):
    id = minari_files.write(env="Pendulum-v1", ref_min_score=10.0, ref_max_score=30.0)
    assert load_minari(id, env="Pendulum-v1").reference_scores == (10.0, 30.0)
    assert load_minari(id, env="MountainCarContinuous-v0").reference_scores is None
    assert load_minari(id, env="Hopper-v5").reference_scores == (-20.272305, 3234.3)
    minari_files.edit_metadata(id, env_spec=None)
    assert load_minari(id, env="MountainCarContinuous-v0").reference_scores == (10.0, 30.0)


def test_scores_are_of_the_environment_as_it_is_registered(minari_files):
    id = minari_files.write(env="Pendulum-v1")
    clipped = gym.wrappers.ClipReward(gym.make("Pendulum-v1"), -1, 1)
    for made, has_scores in (
        (clipped, False),
        (gym.make("Pendulum-v1", max_episode_steps=200), True),
        (gym.make("Pendulum-v1", render_mode="rgb_array"), True),
        (gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1, 1), True),
        (gym.make("Pendulum-v1", g=5.0), False),
        (gym.make("Pendulum-v1", max_episode_steps=30), False),
        (gym.wrappers.RepeatAction(gym.make("Pendulum-v1"), 2), False),
    ):
        minari_files.edit_metadata(id, env_spec=made.spec.to_json())
        assert (load_minari(id).reference_scores is not None) == has_scores, made
        if not has_scores:  # so it is not the registered environment that the id means
            assert load_minari(id, env="Pendulum-v1").env_spec == load_minari(id).env_spec
    minari_files.edit_metadata(id, env_spec=clipped.spec.to_json(), ref_min_score=1.0)
    minari_files.edit_metadata(id, ref_max_score=2.0)
    for env in (None, "Pendulum-v1"):  # they are of the environment as it was recorded
        assert load_minari(id, env=env).reference_scores == (1.0, 2.0)


def test_keyword_arguments_of_any_kind_are_compared(minari_files, monkeypatch):
    kwargs = {"bounds": (-1.0, 1.0), "weights": np.ones(3)}
    spec = gym.envs.registration.EnvSpec("Hopper-v77", "x:Y", max_episode_steps=9, kwargs=kwargs)
    monkeypatch.setitem(gym.registry, "Hopper-v77", spec)
    assert env_scores.reference_scores(spec) is not None
    text = json.dumps(json.loads(replace(spec, kwargs={}).to_json()) | {"kwargs": {
        "bounds": [-1.0, 1.0], "weights": [1.0, 1.0, 1.0], "width": 100,
    }})  # fmt: skip
    assert env_scores.reference_scores(env_specs.parse_spec("x", text)) is not None
    other = env_specs.parse_spec("x", text.replace("-1.0", "-2.0"))
    assert env_scores.reference_scores(other) is None


def test_the_recorded_environment_keeps_its_arguments_where_its_id_is_given(minari_files):
    spec = gym.make("Pendulum-v1", g=5.0, max_episode_steps=30).spec.to_json()
    scores = {"ref_min_score": 10.0, "ref_max_score": 30.0}
    id = minari_files.write(env="Pendulum-v1", **scores)
    minari_files.edit_metadata(id, env_spec=spec)
    for env in (None, "Pendulum-v1", "gymnasium:Pendulum-v1"):
        dataset = load_minari(id, env=env)
        assert dataset.env_spec.kwargs == {"g": 5.0} and dataset.env_spec.max_episode_steps == 30
        assert dataset.reference_scores == (10.0, 30.0)


def test_an_environment_that_scales_by_what_it_has_seen_is_noted(minari_files, caplog):
    id = minari_files.write(env="Pendulum-v1")
    made = gym.wrappers.NormalizeReward(gym.make("Pendulum-v1"))
    minari_files.edit_metadata(id, env_spec=made.spec.to_json())
    (note,) = load_minari(id).notes
    assert note.startswith("NormalizeReward of the environment starts again")
    assert note in caplog.text
    assert load_minari(id).reference_scores is None


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(-3.4e38, 3.4e38, (2,)), "less than 3.4e38 apart"),
        (Box(-1.0, 1.0, (0,)), "it must be a 1-D Box"),
    ],
)
def test_action_spaces_of_no_size_or_too_wide_are_refused(space, words):
    with pytest.raises(DataError, match=words):
        check_action_space("x", space)


def test_the_evaluation_environment_comes_first(minari_files):
    other = gym.spec("MountainCarContinuous-v0").to_json()
    id = minari_files.write(env="Pendulum-v1", eval_env_spec=None)
    assert load_minari(id).env_spec.id == "Pendulum-v1"
    minari_files.edit_metadata(id, eval_env_spec=other)
    assert load_minari(id).env_spec.id == "MountainCarContinuous-v0"
    assert load_minari(id, env="Pendulum-v1").env_spec.id == "Pendulum-v1"


def test_a_spec_from_before_gymnasium_1_is_read(minari_files):
    old = json.loads(gym.spec("Pendulum-v1").to_json())
    old |= {"autoreset": False, "apply_api_compatibility": False}
    del old["additional_wrappers"]
    id = minari_files.write(eval_env_spec=json.dumps(old))
    assert load_minari(id).env_spec == gym.spec("Pendulum-v1")


def test_spaces_missing_from_the_metadata_come_from_the_environment(minari_files):
    id = minari_files.write(
        env="MountainCarContinuous-v0", observation_space=None, action_space=None
    )
    assert load_minari(id).action_space == Box(-1.0, 1.0, (1,), np.float32)


def test_a_missing_id_lists_what_is_there(minari_files):
    for number in range(10):
        minari_files.write(f"test/toy{number}-v0")
    message = r"'test/toy-v0' is not in .* test/toy0-v0, .*test/toy7-v0 and 2 more$"
    with pytest.raises(DataError, match=message):
        load_minari("test/toy-v0", download=False)


def test_a_missing_id_where_there_is_nothing():
    with pytest.raises(DataError, match="available are: none"):
        load_minari("toy-v0", download=False)


def test_a_missing_download_package_is_named(monkeypatch):
    import minari

    def download(_):
        raise ImportError('please install "minari[hf]"')

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(DataError, match=r"needs more packages \((uv )?pip install .*\[download\]"):
        load_minari("toy-v0")


def test_a_failed_download_is_one_line(monkeypatch):
    import minari

    def download(_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(
        DataError, match="the download failed .ConnectionError: no network.; available are: none"
    ):
        load_minari("toy-v0")


def test_a_download_is_loaded(minari_files, monkeypatch):
    import minari

    monkeypatch.setattr(minari, "download_dataset", lambda id: minari_files.write(id))
    assert len(load_minari("test/toy-v0").transitions) == 5


@pytest.mark.parametrize("id", ["toy", "../toy-v0", "/abs/toy-v0", "a//toy-v0", "", "toy-v0/"])
def test_a_malformed_id_is_refused(id):
    with pytest.raises(DataError, match="not a Minari id"):
        load_minari(id)


def test_an_image_is_refused(minari_files):
    space = Box(0, 255, (4, 4, 3), np.uint8)
    images = lambda _, length: np.zeros((length + 1, 4, 4, 3), np.uint8)  # noqa: E731
    id = minari_files.write(observation_space=space, observations=images)
    with pytest.raises(DataError, match=r"observation 'observation' is Box\(0"):
        load_minari(id)


def set_value(path, index, value):
    def change(file):
        file[path][index] = value

    return change


def remove(path):
    def change(file):
        del file[path]

    return change


def store(path, values):
    def change(file):
        del file[path]
        file[path] = values

    return change


def set_bytes(path, content):
    """Bytes as a damaged file has them, whatever its type allows."""

    def change(file):
        file[path].id.write_direct_chunk((0,), content.ljust(file[path].chunks[0], b"\0"))

    return change


def shorten(path):
    def change(file):
        file[path].resize(len(file[path]) - 1, axis=0)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value("episode_1/observations", (0, 1), np.nan), "obs is nan at episode 1, step 0"),
        (set_value("episode_1/observations", (2, 1), np.inf), "obs_next is inf at episode 1, step"),
        (set_value("episode_0/observations", (0, 0), 1e300), "obs is inf at episode 0, step 0"),
        (set_value("episode_0/rewards", 2, np.nan), "rew is nan at episode 0, step 2"),
        (set_value("episode_1/actions", (1, 0), 1.5), r"act\[0\] is 1.5 at episode 1, step 1"),
        (shorten("episode_1/rewards"), "episode 1: lengths differ .* must be equal"),
        (shorten("episode_1/actions"), "episode 1: lengths differ"),
        (shorten("episode_0/observations"), "episode 0: lengths differ"),
        (shorten("episode_0/truncations"), "episode 0: lengths differ"),
        (remove("episode_0/actions"), "is missing or damaged"),
        (
            store("episode_1/observations", np.zeros((3, 2), complex)),
            "episode 1: obs holds .*compl",
        ),
        (store("episode_1/actions", np.array([[b"0"], [b".1"]])), r"episode 1: act holds .* \|S2;"),
        (store("episode_0/rewards", np.array(["1", "2", "3"], object)), "0: rew holds .* object;"),
        (store("episode_0/rewards", np.zeros((3, 1))), r"0: rew has shape \(3, 1\); it must be"),
        (store("episode_0/actions", 0.1), "is missing or damaged"),
        (
            store("episode_1/terminations", np.array([0, np.nan])),
            "terminated is nan at episode 1, s",
        ),
        (
            store("episode_1/terminations", np.array([2.5, 0])),
            "terminated is 2.5 at episode 1, ste",
        ),
        (store("episode_1/truncations", np.array([b"0", b"1"])), r"truncated holds .* \|S1;"),
        (set_bytes("episode_1/terminations", b"\0\x40"), "terminated is 64 at episode 1, step 1"),
        (set_bytes("episode_0/truncations", b"\0\0\x02"), "truncated is 2 at episode 0, step 2"),
        (
            set_value("episode_0/terminations", 1, True),
            "terminated is true at episode 0, step 1, w",
        ),
        (set_value("episode_0/truncations", 0, True), "truncated is true at episode 0, step 0, wh"),
    ],
)
def test_bad_arrays_are_named(minari_files, change, message):
    id = minari_files.write()
    minari_files.edit(id, change)
    with pytest.raises(DataError, match=f"'test/toy-v0'.*{message}"):
        load_minari(id)


def test_observations_of_another_size_than_their_space(minari_files):
    id = minari_files.write(
        observations=lambda _, length: np.zeros((length + 1, 3)),
    )
    with pytest.raises(DataError, match="episode 0: obs has 3 numbers a step, its space has 2"):
        load_minari(id)


def test_a_part_of_the_wrong_size_is_named_where_the_sum_is_right(minari_files):
    space = spaces.Dict({"a": Box(-9, 9, (2,)), "b": Box(-9, 9, (1,))})
    swapped = lambda _, length: {"a": np.zeros((length + 1, 1)), "b": np.zeros((length + 1, 2))}  # noqa: E731
    id = minari_files.write(observation_space=space, observations=swapped)
    with pytest.raises(DataError, match="episode 0: a has 1 numbers a step, its space has 2"):
        load_minari(id)


def test_observations_outside_their_space_are_refused(minari_files):
    id = minari_files.write(observation_space=Box(0.0, 111.0, (2,), np.float64))
    message = r"obs_next\[0\] is 120 at episode 1, step 1; .* \[0, 111\]; correct .* metadata.json"
    with pytest.raises(DataError, match=message):
        load_minari(id)


def test_actions_beyond_their_space_are_clipped_where_asked_for(minari_files):
    id = minari_files.write()
    minari_files.edit(id, set_value("episode_1/actions", (1, 0), 1.5))
    with pytest.raises(DataError, match="or clip them: dataset.clip_actions=true"):
        load_minari(id)
    assert load_minari(id, clip_actions=True).transitions.act.max() == 1
    with pytest.raises(DataError, match=r"act\[0\] is 1.5"):
        load_minari(id)


def test_a_set_of_an_environment_that_is_not_here_is_loaded(minari_files):
    wrapper = {"name": "W", "entry_point": "their_robots:Arm", "kwargs": {}}
    known = json.loads(gym.spec("Pendulum-v1").to_json())
    for changes, said in (
        ({"id": "Robot-v0", "entry_point": "their_robots:Robot"}, "'Robot-v0' is not registered"),
        ({"additional_wrappers": [wrapper]}, "'their_robots:Arm' is not one of Gymnasium's"),
    ):
        id = minari_files.write("test/robot-v0", env_spec=json.dumps(known | changes))
        dataset = load_minari(id)
        assert (dataset.env_spec, len(dataset.transitions)) == (None, 5)
        with pytest.raises(DataError, match=f"{said}.* or trainer.eval_episodes=0"):
            dataset.make_env()
        state = dataset.environment_state
        assert "their_robots" not in json.dumps(state)  # trusting our own run would run it
        minari_files.delete(id)


def clock(start, still=7.0):
    """Observations of a clock that ticks each second, and of one that has stopped."""
    return lambda e, length: (
        start + np.stack([np.arange(length + 1.0), np.full(length + 1, still)], 1)
    )


def test_a_column_that_float32_makes_stand_still_is_noted_at_each_load(minari_files, caplog):
    id = minari_files.write(observations=clock(1.7e9))
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        dataset = load_minari(id)
        (record,) = caplog.records
        assert (
            "obs[0]: float32 cannot represent 100% of its changes from one step to the next: near "
            "1.7e+09 its numbers are 128 apart; record it relative to an origin"
            in (record.getMessage())
        )
        assert dataset.facts()["notes"] == list(dataset.notes)
    caplog.clear()
    assert load_minari(minari_files.write("test/near-v0", observations=clock(1.7e6))).notes == ()
    assert not caplog.records


def test_one_reference_score_alone_is_noted(minari_files, caplog):
    id = minari_files.write(env="Pendulum-v1", ref_max_score=30.0)
    assert load_minari(id).reference_scores == pytest.approx((-1196.757, -150.479))
    assert "ref_max_score alone in its metadata.json is not used" in caplog.text


def test_flags_may_be_numbers(minari_files):
    id = minari_files.write()
    expected = load_minari(id).content_hash
    minari_files.edit(id, store("episode_0/terminations", np.array([0, 0, 1.0])))
    minari_files.edit(id, store("episode_1/truncations", np.array([0, 1], np.uint8)))
    assert load_minari(id).content_hash == expected


def test_a_set_without_steps_is_refused(minari_files):
    id = minari_files.write(lengths=(), ends=())
    with pytest.raises(DataError, match="holds no transitions"):
        load_minari(id)


@pytest.mark.parametrize("told", [1, 3])
def test_less_or_more_than_the_metadata_tell_is_refused(minari_files, told):
    id = minari_files.write(total_episodes=told)
    with pytest.raises(DataError, match=f"states {told} episodes, its data have 2; correct"):
        load_minari(id)
    minari_files.edit_metadata(id, total_episodes=2, total_steps=4)
    with pytest.raises(DataError, match="states 4 steps, its data have 5; correct total_steps"):
        load_minari(id)
    minari_files.edit_metadata(id, total_steps=None)
    assert len(load_minari(id).transitions) == 5


@pytest.mark.parametrize("count", [-1, 2.0, True, "2"])
def test_counts_are_whole_numbers(minari_files, count):
    id = minari_files.write(total_episodes=count)
    with pytest.raises(DataError, match="total_episodes in its metadata.json is .* whole number"):
        load_minari(id)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, float("nan")), ("0", "1"), (False, True)]
)
def test_reference_scores_must_be_a_scale(minari_files, low, high):
    id = minari_files.write(ref_min_score=low, ref_max_score=high)
    with pytest.raises(DataError, match="ref_max_score=.*; they must be finite numbers, the first"):
        load_minari(id)


def test_a_huge_reward_costs_other_episodes_no_digits(minari_files):
    id = minari_files.write(lengths=(3, 2, 2), ends=("terminated",) * 3)
    minari_files.edit(id, set_value("episode_1/rewards", 0, 1e30))
    returns = load_minari(id).episode_returns
    assert returns[[0, 2]] == pytest.approx([0.3, 4.1])


def test_a_set_larger_than_memory_is_one_line(minari_files, monkeypatch):
    def empty(*_):
        raise MemoryError("Unable to allocate 8 PiB")

    id = minari_files.write()
    monkeypatch.setattr(reader, "_assemble", empty)
    with pytest.raises(DataError, match="does not fit into memory .Unable to allocate 8 PiB"):
        load_minari(id)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"total_episodes": "many"}'])
def test_damaged_metadata(minari_files, text):
    id = minari_files.write()
    (minari_files.folder(id) / "metadata.json").write_text(text)
    with pytest.raises(DataError, match=r"'test/toy-v0'.*(damaged|names no environment)") as caught:
        load_minari(id)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["observation_space", "action_space"])
@pytest.mark.parametrize("text", ["no json", '{"type": "Unknown"}', '{"type": "Box"}'])
def test_damaged_spaces(minari_files, key, text):
    id = minari_files.write()
    minari_files.edit_metadata(id, **{key: text})
    with pytest.raises(DataError, match="metadata.json is missing or damaged"):
        load_minari(id)


@pytest.mark.parametrize("text", ["no json", "{}", '{"id": "A-v0", "unknown": 1}', "[]"])
def test_a_damaged_environment_spec_can_be_overridden(minari_files, text):
    id = minari_files.write(eval_env_spec=text)
    with pytest.raises(DataError, match="specification cannot be read .* set dataset.env"):
        load_minari(id).make_env()
    assert load_minari(id, env="Pendulum-v1").env_spec.id == "Pendulum-v1"


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_unreadable_storage(minari_files, damage):
    id = minari_files.write()
    path = minari_files.folder(id) / "main_data.hdf5"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(DataError, match="is missing or damaged"):
        load_minari(id)


def test_a_format_whose_package_is_missing(minari_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # makes its import fail
    id = minari_files.write(data_format="arrow")
    with pytest.raises(DataError, match="needs a package that is missing"):
        load_minari(id)


def test_nothing_is_printed(minari_files, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        load_minari(minari_files.write())
    assert not caplog.records
    assert capfd.readouterr().out == ""


def test_a_copy_keeps_the_scores_and_reports_what_it_does_not_keep(minari_files):
    spec = json.loads(gym.spec("Pendulum-v1").to_json()) | {"id": "elsewhere/Arm-v0"}
    id = minari_files.write(
        observation_space=NESTED, observations=nested_observations, ref_min_score=1.0,
        ref_max_score=3.0, env_spec=json.dumps(spec),
    )  # fmt: skip
    dataset = load_minari(id)
    environment, parts = collect._lost(dataset, 0)
    assert "not registered here" in environment and "dataset.env=module:id" in environment
    assert parts.startswith("the parts of observations")
    spaces_and_spec = (dataset.observation_space, dataset.action_space, dataset.env_spec)
    behaviour.save(
        "test/copy-v0",
        behaviour.as_episodes(dataset.transitions.arrays()),
        spaces_and_spec,
        algorithm_name="x",
        description="x",
        reference_scores=dataset.reference_scores,
    )
    assert load_minari("test/copy-v0").reference_scores == (1.0, 3.0)
