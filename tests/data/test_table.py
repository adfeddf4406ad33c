"""Tables of logged data: which columns, which transitions, what is refused, and where it stands."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from gymnasium.spaces import Box, Discrete

from bcq_exp.data import cache, transitions
from bcq_exp.data.datasets import Dataset, load_minari, load_pendulum, load_table
from bcq_exp.data.table.column_statistics import ColumnStatistics
from bcq_exp.data.transitions import DataError
from bcq_exp.training.evaluation import ObsNormalizer

Table = dict[str, list[Any]]


def patients() -> Table:
    """Three stays: two of three hours that end by themselves, one of two hours that stops."""
    return {
        "stay_id": [7, 7, 7, 3, 3, 3, 5, 5],
        "hour": [0, 1, 2, 0, 2, 3, 1, 4],
        "obs_pulse": [60.0, 61.5, 62.0, 80.0, 81.0, 82.0, 70.0, 71.0],
        "obs_ward": ["B", "B", "A", "C", "C", "C", "A", "B"],
        "obs_awake": [True, False, True, True, True, False, False, True],
        "action_dose": [0, 1, 2, 1, 0, 2, 2, 1],
        "reward": [0.0, 0.0, 1.0, 0.5, 0.0, -1.0, 0.25, 8.0],
        "done": [False, False, True, False, False, True, False, False],
        "comment": list("abcdefgh"),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(columns: Table, name: str = "log.csv") -> str:
        path, table = tmp_path / name, pa.table(columns)
        if path.suffix == ".csv":
            pa.csv.write_csv(table, path)
        else:
            pa.parquet.write_table(table, path, row_group_size=3)
        return str(path)

    return write


def same(one: Dataset, other: Dataset) -> bool:
    return one.content_hash == other.content_hash and np.array_equal(
        one.episode_returns, other.episode_returns
    )


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_columns_are_guessed_and_rows_become_transitions(write, name):
    data = load_table(write(patients(), name))
    t = data.transitions
    assert data.id == "log"
    # the last row of the third stay has no next observation: the one before is cut
    assert data.episode_lengths.tolist() == [3, 3, 2]
    assert data.episode_rows.tolist() == [3, 3, 1]
    assert t.obs[:, 0].tolist() == [60, 61.5, 62, 80, 81, 82, 70]
    assert t.obs_next[:, 0].tolist() == [61.5, 62, 62, 81, 82, 82, 71]
    assert t.obs[:, 1:4].tolist() == np.eye(3)[[1, 1, 0, 2, 2, 2, 0]].tolist()
    assert t.obs_next[-1].tolist() == [71, 0, 1, 0, 1]
    assert t.obs[:, 4].tolist() == [1, 0, 1, 1, 1, 0, 0]
    assert t.act.tolist() == [[0], [1], [2], [1], [0], [2], [2]]
    assert t.rew.tolist() == [0, 0, 1, 0.5, 0, -1, 0.25]
    assert np.flatnonzero(t.terminated).tolist() == [2, 5]
    assert np.flatnonzero(t.truncated).tolist() == [6]
    assert data.episode_returns.tolist() == [1, -0.5, 8.25]
    assert data.action_space == Discrete(3)
    assert data.is_one_hot.tolist() == [False, True, True, True, True]
    columns = data.facts()["columns"]
    assert [c["name"] for c in columns["observations"]] == ["obs_pulse", "obs_ward", "obs_awake"]
    assert columns["observations"][1]["categories"] == ["A", "B", "C"]
    assert columns["action_values"] == [0, 1, 2]
    assert columns["episode"] == "stay_id" and columns["terminated"] == "done"
    scaled = ObsNormalizer.of(t.obs, data.is_one_hot)(t.obs)
    assert np.array_equal(scaled[:, 1:], t.obs[:, 1:])
    assert abs(scaled[:, 0].mean()) < 1e-6


def test_both_formats_several_files_and_the_cache_give_the_same(write, tmp_path):
    whole = load_table(write(patients()))
    table = pa.table(patients())
    (tmp_path / "parts").mkdir()
    for i, (first, end) in enumerate([(0, 2), (2, 5), (5, 8)]):  # within episodes
        pa.parquet.write_table(table[first:end], tmp_path / "parts" / f"{i}.parquet")
    parts = load_table(f"{tmp_path}/parts/*.parquet")
    assert parts.id == "parts"
    assert same(whole, parts) and same(whole, load_table(write(patients(), "log.parquet")))
    again = load_table(f"{tmp_path}/parts/*.parquet")
    assert same(again, parts)
    assert again.facts() == parts.facts() and again.summary == parts.summary


def test_a_large_table_is_mapped_and_the_same(write, monkeypatch):
    whole = load_table(write(patients()), use_cache=False)
    monkeypatch.setattr(transitions, "LARGE", 1)
    monkeypatch.setattr("bcq_exp.data.table.reader.LARGE", 1)
    monkeypatch.setattr("bcq_exp.data.table.sources._MOST_ROWS", 3)  # batches end within episodes
    for use_cache in (False, True, True):
        mapped = load_table(write(patients()), use_cache=use_cache)
        assert same(mapped, whole)
        base = mapped.transitions.obs
        while not isinstance(base, np.memmap):
            base = base.base
    assert [path.name for path in cache.cache_root().glob(".new-*")] == []


def test_statistics_of_batches_are_those_of_the_whole():
    values = np.random.default_rng(0).normal([0, 1e3], [1, 5], (100, 2)) + np.arange(100)[:, None]
    found = ColumnStatistics(["a", "b"])
    for batch in (values[:3], values[3:3], values[3:60], values[60:]):
        found.see(batch)
    for name, expected in {
        "count": 100,
        "mean": values.mean(0),
        "std": values.std(0),
        "low": values.min(0),
        "high": values.max(0),
    }.items():
        np.testing.assert_allclose(getattr(found, name), expected, err_msg=name)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_csv_file_may_have_other_separators_spaces_and_capital_letters(write, tmp_path, sign):
    whole = load_table(write(patients()))
    rows = Path(write(patients(), "plain.csv")).read_text().replace('"', "").splitlines()
    names, *values = [row.split(",") for row in rows]
    spaced = [[f" {value} " for value in row] for row in values]
    capitals = [name if name.startswith("obs") else name.capitalize() for name in names]
    (tmp_path / "other.csv").write_text("\n".join(map(sign.join, [capitals, *spaced])) + "\n")
    data = load_table(f"{tmp_path}/other.csv")
    assert same(data, whole)
    assert data.facts()["columns"]["observations"][1]["categories"] == ["A", "B", "C"]


def test_columns_by_configuration(write):
    table = patients() | {"next_obs_pulse": [0.0] * 8}
    path = write({name[::-1]: values for name, values in table.items()})
    keys = {
        "episode": "di_yats",
        "time": "ruoh",
        "actions": ["esod_noitca"],
        "reward": "drawer",
        "terminated": "enod",
    }
    data = load_table(path, observations=["eslup_sbo", "*draw_sbo", "ekawa_sbo"], **keys)
    assert same(data, load_table(write(patients(), "plain.csv")))
    all_numbers = load_table(path, **keys)  # the rest of the numbers, but for what comes next
    names = [c["name"] for c in all_numbers.facts()["columns"]["observations"]]
    assert names == ["eslup_sbo", "ekawa_sbo", "eslup_sbo_txen"]
    assert load_table(write(table, "p.csv"), observations="obs").observation_space.shape == (5,)


def test_times_and_numbers_as_text_and_lists_in_parquet(write):
    table = patients()
    lists = {k: v for k, v in table.items() if not k.startswith("obs")}
    lists["obs"] = [
        [p, float(a)] for p, a in zip(table["obs_pulse"], table["obs_awake"], strict=True)
    ]
    lists["hour"] = [f"2020-01-0{1 + h}T06:00:00" for h in table["hour"]]
    lists["reward"] = [str(r) for r in table["reward"]]
    data = load_table(write(lists, "log.parquet"))
    plain = load_table(write(table), observations=["obs_pulse", "obs_awake"])
    assert same(data, plain)
    for kind in (pa.date32(), pa.timestamp("ms"), pa.time32("s"), pa.time64("us")):
        as_numbers = pa.array(table["hour"], pa.int64() if kind.bit_width == 64 else pa.int32())
        lists["hour"] = as_numbers.cast(kind)
        assert same(load_table(write(lists, "log.parquet")), plain), kind
    lists["hour"] = pa.array([0, 1, 2, 0, 3, 2, 1, 4], pa.int32()).cast(pa.date32())
    with pytest.raises(DataError, match="in row 6 of log.parquet, less than in the row before"):
        load_table(write(lists, "log.parquet"))


def test_ids_of_episodes_that_are_one_number_in_float64_are_apart(write):
    ids = {7: "17300000000000000001", 3: "17300000000000000002", 5: "017300000000000000002"}
    table = patients()
    whole = load_table(write(table))
    table["stay_id"] = [ids[stay] for stay in table["stay_id"]]
    del table["hour"]  # in which a new episode is seen
    for name in ("ids.csv", "ids.parquet"):
        assert same(load_table(write(table, name)), whole), name
    decimals = [Decimal(stay) + stay.startswith("0") for stay in table["stay_id"]]
    assert same(load_table(write(table | {"stay_id": decimals}, "decimals.parquet")), whole)
    table["stay_id"][1] = "nan"
    with pytest.raises(DataError, match="'stay_id' is empty"):
        load_table(write(table, "nan.parquet"))


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_categories_and_actions_that_are_one_number_in_float64_are_apart(write, name):
    codes = [2**53 + code for code in patients()["action_dose"]]
    table = patients() | {"obs_code": codes, "action_dose": codes}
    found = load_table(write(table, name), categorical=["obs_code"])
    columns = found.facts()["columns"]
    expected = [2**53, 2**53 + 1, 2**53 + 2]
    assert columns["action_values"] == columns["observations"][-1]["categories"] == expected
    plain = load_table(write(patients(), name)).transitions.act[:, 0]
    assert found.transitions.act[:, 0].tolist() == plain.tolist()
    assert found.transitions.obs[:, -3:].argmax(1).tolist() == plain.tolist()


def test_episodes_that_terminate_but_where_they_are_truncated(write):
    table = patients()
    table["cut"] = [False, False, False, False, False, True, False, False]
    data = load_table(write(table), terminated=True, truncated="cut", observations="obs_pulse")
    t = data.transitions
    assert np.flatnonzero(t.terminated).tolist() == [2, 6]  # the row of the cut has no next one
    assert np.flatnonzero(t.truncated).tolist() == [4]
    assert data.episode_rows.tolist() == [3, 2, 2]


def test_changes_within_episodes_that_float32_loses_are_noted_by_column(write):
    table = patients() | {"obs_clock": [1.7e9 + 1e6 * k + k for k in (0, 0, 0, 1, 1, 1, 2, 2)]}
    for row in (1, 2, 4, 5, 7):
        table["obs_clock"][row] = table["obs_clock"][row - 1] + 1
    (note,) = load_table(write(table)).notes
    assert note.startswith("obs_clock: float32 cannot represent 100% of its changes from one step")


def test_rewards_and_actions_that_float32_makes_equal_are_noted(write):
    noise = np.random.default_rng(0).normal(size=8)
    table = patients() | {"reward": 2e8 + noise, "action_dose": 1.7e9 + 100 * noise}
    notes = load_table(write(table)).notes
    assert [note.partition(":")[0] for note in notes] == ["reward", "action_dose"]
    table["action_dose"] = [1.7e9 + each for each in range(-4, 4)]
    whole = load_table(write(table))  # discrete actions are not noted
    assert isinstance(whole.action_space, Discrete) and len(whole.notes) == 1
    with pytest.raises(
        DataError,
        match=r"'action_dose' is between 1699999996 and 1700000003 in .*, which are one number in "
        "float32; record it relative to an origin",
    ):
        load_table(write(table), action_type="continuous")


def test_the_last_row_may_be_the_observation_after_the_last_step(write):
    table = patients()
    for name, value in {"action_dose": None, "reward": None}.items():
        for row in (2, 7):
            table[name][row] = value
    data = load_table(write(table))
    t = data.transitions
    assert data.episode_lengths.tolist() == data.episode_rows.tolist() == [2, 3, 1]
    assert t.obs_next[:, 0].tolist() == [61.5, 62, 81, 82, 82, 71]
    assert np.flatnonzero(t.terminated).tolist() == [1, 4]  # the flag of its last row
    assert np.flatnonzero(t.truncated).tolist() == [5]
    assert data.action_space == Discrete(3)  # 0.0, 1.0 and empty in a file of pandas, too
    del table["stay_id"], table["hour"]
    for flags in (table["done"], [False, True, False, False, False, True, False, False]):
        table["done"] = flags  # of the last row, or of the last step
        assert same(load_table(write(table)), data)


def test_a_reward_in_the_last_row_alone_is_0_elsewhere(write):
    table = patients() | {"reward": [None, None, 1.0, None, None, -1.0, None, 5.0]}
    with pytest.raises(DataError, match=r"'reward' has a value only in the last row.* row 8 of"):
        load_table(write(table))
    data = load_table(write(table), terminated=True, truncated=None, observations="obs_pulse")
    assert data.transitions.rew.tolist() == [0, 0, 1, 0, 0, -1, 0, 5]
    assert data.transitions.terminated.sum() == 3
    assert data.episode_returns.tolist() == [1, -1, 5]
    table["action_dose"][7] = None  # then it is of the step before
    data = load_table(write(table))
    assert data.transitions.rew.tolist() == [0, 0, 1, 0, 0, -1, 5]
    table["reward"][0] = 0.5
    with pytest.raises(DataError, match="has a reward in row 8 of log.csv, which has no action"):
        load_table(write(table))
    table["action_dose"][7] = 1
    with pytest.raises(DataError, match="'reward' is empty .NaN. in row 2 of log.csv"):
        load_table(write(table))
    data = load_table(write(table), empty_reward=0)
    assert data.transitions.rew.tolist() == [0.5, 0, 1, 0, 0, -1, 0]
    data = load_table(write(table), empty_reward=-2)
    assert data.transitions.rew.tolist() == [0.5, -2, 1, -2, -2, -1, -2]


@pytest.mark.parametrize(
    ("values", "keys", "space", "act"),
    [
        ([4, 5, 6, 4, 5, 6, 5, 4], {}, Discrete(3, start=4), [0, 1, 2, 0, 1, 2, 1]),
        ([0, 5, 9, 0, 5, 9, 5, 0], {}, Discrete(3), [0, 1, 2, 0, 1, 2, 1]),
        (list("xyzxyzyx"), {}, Discrete(3), [0, 1, 2, 0, 1, 2, 1]),
        ([True, False] * 4, {}, Discrete(2), [1, 0, 1, 0, 1, 0, 1]),
        (
            list("xyzxyzyx"),
            {"allowed_actions": ["z", "y", "x"]},
            Discrete(3),
            [2, 1, 0, 2, 1, 0, 1],
        ),
        ([0.5, 1, 2, 3, 1, 1, 1, -2], {}, Box(-2, 3, (1,)), [0.5, 1, 2, 3, 1, 1, 1]),
        (
            [0, 5, 9, 0, 5, 9, 5, 0],
            {"action_bounds": [0, 10]},
            Box(0, 10, (1,)),
            [0, 5, 9, 0, 5, 9, 5],
        ),
        (
            [0, 5, 9, 0, 5, 9, 5, 0],
            {"action_bounds": [0, 8], "clip_actions": True},
            Box(0, 8, (1,)),
            [0, 5, 8, 0, 5, 8, 5],
        ),
        (
            [0, 5, 9, 0, 5, 9, 5, 0],
            {"action_type": "continuous"},
            Box(0, 9, (1,)),
            [0, 5, 9, 0, 5, 9, 5],
        ),
    ],
)
def test_actions(write, values, keys, space, act):
    data = load_table(write(patients() | {"action_dose": values}), **keys)
    assert data.action_space == space
    assert data.transitions.act[:, 0].tolist() == act


def numbered(actions) -> Table:
    """A table of one episode with these actions."""
    rows = range(len(actions))
    return {"episode": [0 for _ in rows], "obs": [*rows], "action": actions, "reward": [*rows]}


def test_a_hundred_integers_are_discrete_actions_and_more_are_numbers(write):
    for count, space in ((100, Discrete(100)), (101, Box(0, 100, (1,)))):
        table = numbered([*range(count), 0])
        assert load_table(write(table)).action_space == space
    table = numbered([*range(1001), 0])
    with pytest.raises(DataError, match="action are to be discrete and have more than 1000"):
        load_table(write(table), action_type="discrete")


def test_a_column_of_a_thousand_categories_is_the_longest(write):
    names = [f"x{k}" for k in range(1001)]
    table = numbered([0, 1] * 500) | {"obs": names[:1000]}
    assert load_table(write(table)).observation_space.shape == (1000,)
    table = numbered([0, 1] * 500 + [0]) | {"obs": names}
    with pytest.raises(DataError, match="'obs' has more than 1000 categories up to row 1,001"):
        load_table(write(table))


def test_several_columns_of_categories_are_one_action(write):
    table = patients() | {"action_drug": list("abaababa")}
    data = load_table(write(table))
    columns = data.facts()["columns"]
    values = [tuple(v) for v in columns["action_values"]]
    rows = [*zip(table["action_dose"], table["action_drug"], strict=True)][:7]
    assert values == sorted({*zip(table["action_dose"], table["action_drug"], strict=True)})
    assert [values[int(a)] for a in data.transitions.act[:, 0]] == rows


def test_other_categories_are_other_content(write):
    table, plain = patients(), {"observations": "obs_pulse"}
    renamed = {"B": "b", "A": "a", "C": "c"}
    one, other = (
        load_table(write(table | {"obs_ward": [names[w] for w in table["obs_ward"]]}))
        for names in ({w: w for w in renamed}, renamed)
    )
    assert np.array_equal(one.transitions.obs, other.transitions.obs)
    assert one.content_hash != other.content_hash
    as_text = table | {"action_dose": [f"dose {d}" for d in table["action_dose"]]}
    numbers, text = (load_table(write(each), **plain) for each in (table, as_text))
    assert np.array_equal(numbers.transitions.act, text.transitions.act)
    assert numbers.content_hash != text.content_hash


def test_numbers_as_categories(write):
    table = patients() | {"obs_ward": [3, 3, 1, 9, 9, 9, 1, 3]}
    data = load_table(write(table), categorical=["obs_ward"])
    assert data.transitions.obs[:, 1:4].tolist() == np.eye(3)[[1, 1, 0, 2, 2, 2, 0]].tolist()
    assert data.facts()["columns"]["observations"][1]["categories"] == [1, 3, 9]


def test_behaviour_probabilities_stay_with_their_transitions(write):
    prob = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    data = load_table(write(patients() | {"propensity": prob}))
    np.testing.assert_allclose(data.behaviour_prob, prob[:7], rtol=1e-6)
    again = load_table(write(patients() | {"propensity": prob}))  # from the cache
    assert np.array_equal(again.behaviour_prob, data.behaviour_prob)
    assert load_table(write(patients())).behaviour_prob is None
    many = {name: values * 4 for name, values in patients().items()}
    many["stay_id"] = list(np.repeat(np.arange(12), [3, 3, 2] * 4))
    many["propensity"] = [i / 32 + 0.01 for i in range(32)]
    many["obs_pulse"] = many["propensity"]
    parts = load_table(write(many), holdout=0.25)
    for part in (parts, parts.held_out):
        assert np.array_equal(part.behaviour_prob, part.transitions.obs[:, 0])


def test_episodes_without_a_column_end_at_flags_and_files(write, tmp_path):
    table = patients()
    del table["stay_id"], table["hour"]
    data = load_table(write(table))
    assert same(data, load_table(write(patients(), "whole.csv")))
    del table["done"]
    for i, rows in enumerate([slice(0, 3), slice(3, 6), slice(6, 8)]):
        write({k: v[rows] for k, v in table.items()}, f"stay_{i}.csv")
    files = load_table(f"{tmp_path}/stay_*.csv")
    assert files.episode_rows.tolist() == [2, 2, 1]
    assert files.transitions.truncated.sum() == 3


def test_episodes_of_one_row(write):
    table = {name: values[:] for name, values in patients().items()}
    table["stay_id"] = [7, 7, 7, 3, 3, 3, 5, 6]
    data = load_table(write(table))
    assert data.episode_rows.tolist() == [3, 3, 0, 0]
    assert "2 of 4 episodes are cut after one row, the first in row 7 of log.csv" in data.notes[0]
    bandit = load_table(write(table | {"stay_id": [*range(8)], "done": [1] * 8}))
    assert bandit.transitions.terminated.all() and len(bandit.transitions) == 8
    with pytest.raises(DataError, match="every episode is cut after one row"):
        load_table(write(table | {"stay_id": [*range(8)], "done": [0] * 8}))


def test_the_summary_shows_what_a_person_looks_for_within_80_columns(write):
    rng = np.random.default_rng(0)
    many = {
        "episode": np.repeat(np.arange(50), 20),
        "obs_a": rng.normal(size=1000),
        "obs_b": np.ones(1000),
        "obs_wide": 1e3 * rng.normal(size=1000),
        "obs_rare": np.arange(1000) == 5,
        "action": rng.integers(0, 3, 1000) ** 2,
        "reward": np.ones(1000),
    }
    many["obs_a"][10] = -4e5
    summary = load_table(write({k: list(v) for k, v in many.items()})).summary
    text = "\n".join(summary)
    assert max(map(len, summary)) <= 80 or "log.csv" in max(summary, key=len)
    assert "1,000 rows" in text and "50, 50 of them cut" in text
    assert "action: discrete, 3; shares" in text
    assert "constant  obs_b\n" in text + "\n"
    assert "obs_a -4e+05" in text and "obs_rare" not in text.partition("extreme")[2]
    assert "obs_wide" not in text.partition("extreme")[2]
    assert "episode=episode?" in text and "terminated=none" in text
    assert "not used" not in text
    some = load_table(write(patients()), observations=["obs_pulse", "obs_awake"]).summary
    assert "not used  obs_ward, comment" in some
    said = " ".join(" ".join(some).split())
    assert "mean 2.667, standard deviation 0.4714, least 2, median 3, most 3" in said  # lengths
    assert "mean 2.917, standard deviation 3.821, least -0.5, median 1, most 8.25" in said


def test_the_same_data_as_minari_set_and_as_table(minari_files, write):
    id = minari_files.write()
    minari = load_minari(id)
    rows: Table = {k: [] for k in ("episode", "obs_0", "obs_1", "action", "reward", "terminated")}
    with h5py.File(minari_files.folder(id) / "main_data.hdf5") as file:
        for e in range(2):
            group = file[f"episode_{e}"]
            obs, n = group["observations"][:], len(group["rewards"])
            rows["episode"] += [e] * (n + 1)
            for i in range(2):
                rows[f"obs_{i}"] += obs[:, i].tolist()
            rows["action"] += [*group["actions"][:, 0].tolist(), None]
            rows["reward"] += [*group["rewards"][:].tolist(), None]
            rows["terminated"] += [*group["terminations"][:].tolist(), False]
    for name in ("log.csv", "log.parquet"):
        assert same(load_table(write(rows, name), action_bounds=[-1, 1]), minari)


def _set(column: str, row: int, value: Any) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table[column][row] = value

    return change


def _interleave(table: Table) -> None:
    table["stay_id"] = [7, 7, 3, 7, 3, 3, 5, 5]
    table["hour"] = [0, 1, 0, 2, 2, 3, 1, 4]


FAULTS: list[tuple[Any, dict[str, Any], str]] = [
    (lambda t: t.pop("reward"), {}, "dataset.reward=null: no column of log.csv has a usual name"),
    (
        lambda t: None,
        {"reward": "rewad"},
        "reward=rewad: log.csv has no such .*did you mean reward",
    ),
    (lambda t: None, {"observations": ["pulse"]}, "observations=pulse: .*did you mean obs_pulse"),
    (lambda t: None, {"observations": "x_*"}, r"observations=x_\*: no column of log.csv matches"),
    (lambda t: None, {"observations": "reward", "reward": "reward"}, "is also dataset.reward"),
    (lambda t: None, {"categorical": ["ward"]}, "dataset.categorical=ward"),
    (lambda t: t.pop("action_dose"), {}, "dataset.actions=null"),
    (_set("obs_pulse", 4, None), {}, r"'obs_pulse' is empty \(NaN\) in row 5 of log.csv"),
    (_set("obs_pulse", 4, float("inf")), {}, "'obs_pulse' is inf in row 5 of log.csv"),
    (_set("obs_pulse", 4, 1e60), {}, r"'obs_pulse' is 1e\+60 in row 5"),
    (_set("obs_ward", 0, None), {}, "'obs_ward' is empty in row 1 of log.csv"),
    (_set("stay_id", 1, None), {}, "'stay_id' is empty in row 2"),
    (_set("hour", 1, 0), {}, "'hour' is 0 in row 2 of log.csv, twice in one episode"),
    (_set("hour", 5, 1), {}, "'hour' is 1 in row 6 of log.csv, less than in the row before"),
    (_set("hour", 5, None), {}, "'hour' is empty in row 6"),
    (_interleave, {}, "'stay_id' is 7 again in row 4 of log.csv, after other episodes; .*row 1 of"),
    (_set("done", 1, True), {}, "'done' is true in row 2 of log.csv, which is not its episode's"),
    (_set("reward", 1, None), {}, r"'reward' is empty \(NaN\) in row 2 of log.csv"),
    (_set("reward", 1, float("-inf")), {}, "'reward' is -inf in row 2"),
    (_set("action_dose", 1, None), {}, "'action_dose' is empty in row 2 of log.csv; only the last"),
    (lambda t: t.update(action_dose=[1] * 8), {}, "'action_dose' has one action only, 1"),
    (lambda t: t.update(action_dose=[0.5] * 8), {}, "'action_dose' is 0.5 in every row"),
    (
        lambda t: None,
        {"allowed_actions": [0, 1]},
        "'action_dose' is 2 in row 3 of log.csv, which is none of the allowed actions 0, 1",
    ),
    (
        lambda t: None,
        {"allowed_actions": [0, 1, 2, 3]},
        "3 is in no row of column 'action_dose' of .*log.csv",
    ),
    (
        lambda t: None,
        {"allowed_actions": [[1, [2]], [0, 1]], "actions": ["action_dose", "hour"]},
        r"\[1, \[2\]\] must have a value for each of action_dose, hour",
    ),
    (lambda t: None, {"allowed_actions": [{"a": 1}, 2]}, "must have a value for each of action_do"),
    (lambda t: None, {"terminated": [["done"]]}, "must be the name of one column"),
    (
        lambda t: None,
        {"action_bounds": [0, 1.5]},
        "'action_dose' is 2 in row 3 of log.csv; dataset.action_bounds allows",
    ),
    (
        lambda t: None,
        {"clip_actions": True},
        r"'log': dataset.clip_actions=true: its action space is Discrete\(3\), which has no bounds",
    ),
    (lambda t: t.update(propensity=[0.5, 0.0] * 4), {}, "'propensity' is 0 in row 2 of log.csv"),
    (lambda t: t.update(propensity=[0.5, 1.5] * 4), {}, "'propensity' is 1.5 in row 2 of log.csv"),
    (
        lambda t: t.update(obs_pulse=["60", "61", "n/a?", "4", "5", "6", "7", "8"]),
        {},
        "obs_pulse: has text among numbers, 'n/a[?]' in row 3 of log.csv",
    ),
    (
        lambda t: t.update(reward=["1", "?", "2", "4", "5", "6", "7", "8"]),
        {},
        r"dataset.reward=reward: has text, '\?' in row 2 of log.csv",
    ),
    (
        lambda t: t.update(done=["no", "no", "yes", "no", "no", "yes", "no", "no"]),
        {},
        "'no' in row 1",
    ),
    (lambda t: t.update(done=[0, 0, 2, 0, 0, 1, 0, 0]), {}, "'done' is 2.0 at row 3 of log.csv"),
    (lambda t: (t.pop("stay_id"), t.pop("done")), {}, "dataset.episode=null"),
]


@pytest.mark.parametrize(("fault", "keys", "message"), FAULTS, ids=[f[2][:40] for f in FAULTS])
def test_bad_input_is_one_line_that_names_column_and_row(write, fault, keys, message):
    table = patients()
    fault(table)
    with pytest.raises(DataError, match=message) as caught:
        load_table(write(table), **keys)
    assert "\n" not in str(caught.value)


def _write(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def _cut(folder: Path) -> str:
    path = folder / "cut.parquet"
    pa.parquet.write_table(pa.table(patients()), path)
    path.write_bytes(path.read_bytes()[:400])
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: str(folder / "no.csv"), "there is no such file"),
        (lambda folder: "~no.user/no.csv", "~no.user/no.csv: there is no such file"),
        (lambda folder: str(folder / "*.parquet"), "no file matches"),
        (str, "is a folder; write .*/[*].parquet"),
        (_write("a.csv", b""), "a.csv: is empty"),
        (_write("a.csv", b"episode,obs,action,reward\n"), "'a' holds no transitions"),
        (_write("a.parquet", b"x,y\n1,2\n"), "a.parquet: is no Parquet file"),
        (_write("a.csv", b"x,y\n1,2\n3\n"), r"a.csv: has 1 values in row 2 \('3'\), its header 2"),
        (_write("a.csv", b"x,x\n1,2\n"), "two columns have the name 'x'"),
        (_write("a.csv", b"x, y\n1, 2\n"), "the column name ' y' has spaces around it"),
        (_write("a.csv", b"x,y\n\xff\xfe,2\n"), "a.csv: cannot be read"),
        (_write("a.xlsx", b"PK\x00\x00zip"), "is neither a Parquet nor a CSV file"),
        (_cut, "cut.parquet: cannot be read"),
    ],
)
def test_files_that_are_no_tables(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as caught:
        load_table(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_files_with_other_columns_are_named(write, tmp_path):
    write(patients(), "log_a.csv")
    write({k: v for k, v in patients().items() if k != "hour"}, "log_b.csv")
    with pytest.raises(DataError, match="log_b.csv has no column 'hour', which log_a.csv has"):
        load_table(f"{tmp_path}/log_*.csv")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("reward", ["0", "1", "?", "0", "0", "0", "0", "0"]),
        ("obs_ward", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("hour", pa.array([0, 1, 2, 0, 1, 2, 0, 1], pa.timestamp("s"))),
        ("clock", pa.array(range(8), pa.timestamp("us"))),
    ],
)
def test_files_with_a_column_of_another_type_are_named(write, tmp_path, column, values):
    clock = {"clock": pa.array(range(8), pa.timestamp("ms"))}
    write(patients() | clock, "log_a.parquet")
    write(patients() | clock | {column: values}, "log_b.parquet")
    with pytest.raises(DataError, match=f"log_b.parquet has column '{column}' as .*, log_a.parq"):
        load_table(f"{tmp_path}/log_*.parquet")


def test_a_table_with_an_environment_has_its_actions(write):
    pendulum = load_pendulum("random", num_steps=400).transitions
    rows = {
        "episode": np.arange(400) // 200,
        **{f"obs_{i}": pendulum.obs[:, i] for i in range(3)},
        "action": pendulum.act[:, 0],
        "reward": pendulum.rew,
    }
    data = load_table(write({k: v.tolist() for k, v in rows.items()}), env="Pendulum-v1")
    assert data.action_space == Box(-2, 2, (1,))
    data.make_env().close()
