"""A table of logged data by the command line: trained on, refused, stored as a Minari data set."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from bcq_exp import load_policy
from bcq_exp.data.datasets import load_minari, load_pendulum, load_table
from bcq_exp.training.record import RunRecord
from tests.forked import forked
from tests.same import assert_same_state, checkpoint

STEPS = (
    "trainer.num_steps=60",
    "trainer.log_every=20",
    "trainer.batch_size=16",
    "logger=none",
    "trainer.engine=eager",
)


@pytest.fixture
def bcq_exp(tmp_path, own_data):
    return partial(forked, cwd=tmp_path, env=own_data)


@pytest.fixture
def recorded(tmp_path, own_data, monkeypatch) -> Path:
    """A Minari data set of 2000 steps as a table, with rows for the observations at the end."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", own_data["MINARI_DATASETS_PATH"])
    data = load_pendulum("mixture", num_steps=2000)
    t, ends = data.transitions, np.cumsum(data.episode_rows)
    after = np.repeat(np.arange(len(t)), 1 + (np.isin(np.arange(len(t)), ends - 1)))
    is_after = np.concatenate([[False], after[1:] == after[:-1]])
    rows = {
        "episode": np.repeat(np.arange(len(ends)), data.episode_rows)[after],
        **{f"obs_{i}": np.where(is_after, t.obs_next[after, i], t.obs[after, i]) for i in range(3)},
        "action": pa.array(t.act[after, 0], mask=is_after),
        "reward": pa.array(t.rew[after], mask=is_after),
    }
    pa.parquet.write_table(pa.table(rows), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def test_the_same_data_as_minari_set_and_as_table_train_the_same(bcq_exp, recorded, tmp_path):
    same = (*STEPS, "trainer.normalize_obs=true", "trainer.eval_episodes=1")
    sets = {
        "minari": ("dataset=pendulum", "dataset.num_steps=2000"),
        "table": (
            "dataset=table",
            "dataset.path=log.parquet",
            "dataset.env=Pendulum-v1",
        ),
    }
    for name, dataset in sets.items():
        done = bcq_exp("train", f"name={name}", *dataset, *same)
        assert done.returncode == 0, done.stderr
    assert "columns   episode=episode?" in done.stdout
    one, other = (tmp_path / "multirun" / name for name in sets)
    hashes = {RunRecord(run).required_summary()["dataset"]["content_hash"] for run in (one, other)}
    assert len(hashes) == 1
    assert (one / "eval.csv").read_text() == (other / "eval.csv").read_text()
    assert (one / "train.csv").read_text() == (other / "train.csv").read_text()
    states = (checkpoint(run)["engine"] for run in (one, other))
    assert_same_state(*states)


def test_a_table_is_normalized_and_needs_no_environment(bcq_exp, recorded, tmp_path):
    table = ("dataset=table", "dataset.path=log.parquet")
    done = bcq_exp("train", "name=a", *table, "dataset.holdout=0.4", *STEPS)
    assert done.returncode == 0, done.stderr
    summary = RunRecord(tmp_path / "multirun" / "a").required_summary()
    assert summary["config"]["trainer"]["normalize_obs"] is True
    assert summary["config"]["trainer"]["eval_episodes"] == 0
    assert summary["config"]["dataset"]["path"] == str(recorded)
    names = [column["name"] for column in summary["dataset"]["columns"]["observations"]]
    assert names == ["obs_0", "obs_1", "obs_2"]
    assert summary["last"] is None
    done = bcq_exp("select", "multirun/a", "num_steps=50", "num_members=2")
    assert done.returncode == 0, done.stderr
    assert "behaviour" in done.stdout
    assert (tmp_path / "multirun/a/ope/policies.csv").exists()
    other = bcq_exp("train", "name=b", *table, *STEPS, "trainer.normalize_obs=false")
    assert other.returncode == 0, other.stderr
    config = RunRecord(tmp_path / "multirun" / "b").required_summary()["config"]
    assert config["trainer"]["normalize_obs"] is False


def doses(wards="AB"):
    """A table of 20 stays of three hours, with doses 4, 5 and 6."""
    rng = np.random.default_rng(0)
    rows = ["stay_id,hour,obs_pulse,obs_ward,dose,reward,done"]
    for k in range(60):
        pulse, reward = rng.normal(size=2)
        rows.append(
            f"{k // 3},{k % 3},{pulse:.3f},{wards[k % 2]},{4 + k % 3},{reward:.3f},{k % 3 == 2}"
        )
    return "\n".join(rows) + "\n"


def test_discrete_bcq_learns_from_a_table_and_resumes_on_no_other(bcq_exp, tmp_path):
    (tmp_path / "log.csv").write_text(doses())
    given = ("dataset=table", "dataset.path=log.csv", "dataset.actions=dose", "algo=discrete_bcq")
    done = bcq_exp("train", "name=a", *given, *STEPS)
    assert done.returncode == 0, done.stderr
    assert "dose: discrete, 3; shares 4 0.333" in done.stdout
    rows = RunRecord(tmp_path / "multirun" / "a").rows("train")
    assert [row["step"] for row in rows] == [20, 40, 60] and 0 < rows[-1]["allowed_share"] <= 1
    policy = load_policy(tmp_path / "multirun" / "a")
    assert set(policy.predict(np.float32([[0, 1, 0], [1, 0, 1]]))[0]) <= {4, 5, 6}
    (tmp_path / "log.csv").write_text(doses(wards="AC"))  # the same numbers
    done = bcq_exp("train", "name=a", *given, *STEPS, "trainer.num_steps=80")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "multirun/a: its data set changed" in done.stderr


def test_a_mistake_is_one_line_and_status_2(bcq_exp, tmp_path):
    (tmp_path / "log.csv").write_text("episode,obs,action,reward\n1,0.5,1.5,1\n1,,0.5,0\n")
    table = ("train", "name=a", "dataset=table", *STEPS)
    for path, words in {"log.csv": "'obs' is empty (NaN) in row 2", "*.pq": "no file"}.items():
        done = bcq_exp(*table, f"dataset.path={path}")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


def test_what_a_minari_data_set_does_not_hold_is_a_line_each(bcq_exp, tmp_path):
    table = ("dataset=table", "dataset.path=log.csv", "dataset.actions=dose")
    header, *rows = doses().splitlines()
    lines = [f"{header},prob", *(f"{row},0.5" for row in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    done = bcq_exp("collect", "id=my/log-v0", *table, "dataset.behaviour_prob=prob")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "does not hold" in line] == [
        "my/log-v0: a Minari data set does not hold the probabilities of dataset.behaviour_prob, "
        "so bcq_exp select will estimate the behaviour policy",
        "my/log-v0: a Minari data set does not hold which columns are categories or booleans "
        "(obs_ward), so trainer.normalize_obs=true will scale their numbers",
    ]
    done = bcq_exp("collect", "id=my/plain-v0", *table, "dataset.observations=[obs_pulse]")
    assert done.returncode == 0 and "does not hold" not in done.stdout


def test_a_table_is_stored_as_a_minari_data_set(bcq_exp, recorded, tmp_path, own_data, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", own_data["MINARI_DATASETS_PATH"])
    store = ("collect", "id=my/log-v0", "dataset=table", f"dataset.path={recorded}")
    done = bcq_exp(*store)
    assert done.returncode == 0, done.stderr
    table, stored = load_table(str(recorded)), load_minari("my/log-v0", download=False)
    assert stored.content_hash == table.content_hash
    assert stored.action_space == table.action_space
    assert stored.episode_returns.tolist() == table.episode_returns.tolist()
    folder = Path(own_data["MINARI_DATASETS_PATH"]) / "my/log-v0/data"
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["bcq_exp"]["columns"] == table.facts()["columns"]
    assert bcq_exp(*store).returncode == 2
    assert bcq_exp(*store, "overwrite=true", "env=Pendulum-v1").returncode == 2
