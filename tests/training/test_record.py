"""A run's files: written at once, read whatever a kill left, and rewound to a step."""

import json
import os
import zlib

import numpy as np
import pytest

from bcq_exp.errors import Damaged, UserError
from bcq_exp.files import Mark, atomic_path, check_mark, mark, write_atomically
from bcq_exp.training import checkpoint
from bcq_exp.training.record import SUMMARY, TABLES, RunRecord


@pytest.fixture
def record(tmp_path):
    record = RunRecord(tmp_path)
    for step in (10, 20, 30):
        record.append("train", {"step": step, "loss": step / 7, "q": -1e-9})
        record.append("timing", {"step": step, "wall_time": 0.5})
    for step in (15, 30):
        record.append("eval", {"step": step, "return_mean": -step / 3, "normalized_score": None})
        record.append_episodes(step, np.array([1.0, 2.0]) * step, np.array([step, 7]))
    return record


def marks_at(record, step):
    """How far the tables were at a step."""
    found = {}
    for table in TABLES:
        path = record.folder / f"{table}.csv"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        header, *rows = [line for line in lines if line.endswith(b"\n")] or [b""]
        content = header + b"".join(row for row in rows if int(row.split(b",")[0]) <= step)
        found[table] = Mark(size=len(content), crc32=zlib.crc32(content))
    return found


def test_rows_are_read_as_they_were_written(record):
    assert record.rows("train") == [{"step": s, "loss": s / 7, "q": -1e-9} for s in (10, 20, 30)]
    assert record.rows("eval")[0] == {"step": 15, "return_mean": -5.0, "normalized_score": None}
    assert isinstance(record.rows("train")[0]["step"], int)


def test_columns_are_the_rows(record):
    for table in ("train", "eval", "timing"):
        rows = record.rows(table)
        columns = record.columns(table)
        assert list(columns) == list(rows[0])
        for name, column in columns.items():
            expected = np.array([row[name] for row in rows], float)  # None becomes NaN
            np.testing.assert_array_equal(column, expected)
    assert RunRecord(record.folder / "nothing").columns("train") == {}


@pytest.mark.parametrize("line", ["40,0.1", "40,0.1,2,3", "40,x,1", "", "40,,,"])
def test_columns_that_are_no_table_of_numbers_are_damaged(record, line):
    path = record.folder / "train.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(Damaged, match=r"train\.csv is damaged"):
        record.columns("train")


def test_numbers_that_are_not_finite_come_back(tmp_path):
    record = RunRecord(tmp_path)
    record.append("train", {"step": 1, "a": float("nan"), "b": float("-inf")})
    (row,) = record.rows("train")
    assert np.isnan(row["a"])
    assert row["b"] == -np.inf


@pytest.mark.parametrize("tail", ["4", "40,0.1,", "40,0.1,-1e-09"])
def test_a_half_written_line_is_left_out(tail, record, tmp_path):
    complete = record.rows("train")
    with (tmp_path / "train.csv").open("a") as file:
        file.write(tail)
    assert record.rows("train") == complete
    record.rewind(marks_at(record, 30))
    record.append("train", {"step": 40, "loss": 1.0, "q": 2.0})
    assert record.rows("train") == [*complete, {"step": 40, "loss": 1.0, "q": 2.0}]


@pytest.mark.parametrize(
    ("step", "train", "evals"), [(25, 2, 1), (20, 2, 1), (5, 0, 0), (99, 3, 2)]
)
def test_rewinding_forgets_what_came_after(step, train, evals, record, tmp_path):
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}
    record.rewind(marks_at(record, step))
    assert [row["step"] for row in record.rows("train")] == [10, 20, 30][:train]
    assert [row["step"] for row in record.rows("timing")] == [10, 20, 30][:train]
    assert [row["step"] for row in record.rows("eval")] == [15, 30][:evals]
    episodes = record.episodes()
    assert episodes["step"].tolist() == [15, 30][:evals]
    assert episodes["returns"].tolist() == [[15.0, 30.0], [30.0, 60.0]][:evals]
    assert episodes["lengths"].tolist() == [[15, 7], [30, 7]][:evals]
    for name, content in before.items():  # what stays is untouched
        assert content.startswith((tmp_path / name).read_bytes())


def test_a_kill_while_rewinding_leaves_a_summary_that_is_true(record, monkeypatch):
    def truncate_and_die(path, size, truncate=os.truncate):
        truncate(path, size)
        raise KeyboardInterrupt

    record.write_summary(summary_of())
    monkeypatch.setattr(os, "truncate", truncate_and_die)
    with pytest.raises(KeyboardInterrupt):
        record.rewind(marks_at(record, 20))
    record.check(record.summary()["record"])


@pytest.mark.parametrize("content", ["", "step,lo"])
def test_a_table_killed_in_its_header_starts_again(content, tmp_path):
    (tmp_path / "train.csv").write_text(content)
    record = RunRecord(tmp_path)
    record.rewind(marks_at(record, 10))
    record.append("train", {"step": 20, "loss": 1.0})
    assert record.rows("train") == [{"step": 20, "loss": 1.0}]


def test_a_table_begun_by_an_earlier_version_keeps_its_columns(tmp_path):
    record = RunRecord(tmp_path)
    record.append("eval", {"step": 1, "return_mean": 2.0})
    record.append("eval", {"step": 2, "return_mean": 3.0, "value_mean": 4.0})
    assert record.rows("eval") == [
        {"step": 1, "return_mean": 2.0},
        {"step": 2, "return_mean": 3.0},
    ]
    assert (tmp_path / "eval.csv").read_bytes() == b"step,return_mean\r\n1,2.0\r\n2,3.0\r\n"


def test_an_empty_folder_has_no_rows(tmp_path):
    record = RunRecord(tmp_path)
    record.rewind(record.marks())
    assert record.rows("train") == []
    assert record.episodes() == {}
    assert record.summary() is None
    assert list(tmp_path.iterdir()) == []


def summary_of(**changed):
    config = {"algo": {"_target_": "x"}, "trainer": {"engine": "auto", "num_steps": 9}}
    data = {"id": "d", "content_hash": None, "behaviour_return": None}
    found = dict.fromkeys(SUMMARY) | {"config": config | {"dataset": {}}, "dataset": data}
    return found | {"step": 3, "status": "running", "seed": 0} | changed


def test_the_summary_is_replaced(record, tmp_path):
    record.write_summary(summary_of(more=1))
    record.write_summary(summary_of(status="completed"))
    assert record.summary() == summary_of(status="completed", record=record.marks())
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"config": {}},
        {"dataset": {}},
        {"step": None},
        {"seed": [0]},
        {"dataset": {"id": "d"}},
        {"config": {"algo": {}, "trainer": {"num_steps": 9}, "dataset": {}}},
        {"last": {"step": 1, "return_mean": "x", "normalized_score": None}},
        {"best": {"return_mean": 1.0, "normalized_score": None}},
        {"best": []},
        {"status": "<img src=x onerror=alert(1)>"},
        {"failure": 3},
        {"watches": [{"kind": "x"}]},
        {"watches": [{"kind": "x", "statistics": ["q1"], "below": "<b>"}]},
        {"versions": {"torch": {}}},
    ],
    ids=str,
)
def test_a_summary_with_a_right_checksum_and_other_content_is_damaged(wrong, record):
    record.write_summary(summary_of(**wrong))
    with pytest.raises(Damaged, match="summary.json is damaged"):
        record.summary()


@pytest.mark.parametrize(
    "wrong",
    [{"returns": np.array([["a", "b"]])}, {"step": np.arange(2)}, {"lengths": np.ones((1, 3))}],
    ids=["words", "other steps", "other episodes"],
)
def test_episodes_that_do_not_belong_together_are_damaged(wrong, record, tmp_path):
    arrays = {"step": np.array([5]), "returns": np.ones((1, 2)), "lengths": np.ones((1, 2))}
    np.savez(tmp_path / "eval_returns.npz", **arrays)
    assert record.episodes()["step"] == 5
    np.savez(tmp_path / "eval_returns.npz", **{**arrays, **wrong})
    with pytest.raises(Damaged, match="arrays do not match"):
        record.episodes()


def test_evaluations_without_their_episodes_are_damage(tmp_path):
    record = RunRecord(tmp_path)
    for step in (10, 20):
        record.append("eval", {"step": step, "return_mean": 1.0})
        record.append_episodes(step, np.ones(2), np.ones(2, int))
    record.check(record.marks())
    record.append("eval", {"step": 30, "return_mean": 1.0})
    with pytest.raises(Damaged, match=r"eval_returns.npz is damaged \(evaluations of eval.csv are"):
        record.check(record.marks())


def test_estimates_are_kept_by_step_and_settings(tmp_path):
    record = RunRecord(tmp_path)
    for step, setting, value in ((90, 1, 0.1), (60, 1, 0.2), (90, 2, 0.3), (90, 1, 0.4)):
        record.add_estimate({"step": step, "settings": {"num_steps": setting}, "fqe": value})
    found = [(row["step"], row["settings"]["num_steps"], row["fqe"]) for row in record.estimates()]
    assert found == [(60, 1, 0.2), (90, 2, 0.3), (90, 1, 0.4)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "missing or empty"),
        (b"abc", "3 of 4 bytes"),
        (b"abcx", "checksum mismatch"),
        (b"xabcd", "checksum mismatch"),
    ],
)
def test_what_a_marked_file_lacks_is_named(content, said, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abcd")
    marked = mark(path)
    check_mark(path, b"abcd and more", marked)
    with pytest.raises(Damaged, match=rf"f is damaged \({said}\)"):
        check_mark(path, content, marked)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_on_disk_before_they_replace_others_or_are_marked(tmp_path, monkeypatch):
    calls, path = [], tmp_path / "f"
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or move(*paths))
    write_atomically(path, b"new")
    assert calls == ["fsync", "replace"]
    assert mark(path) == mark(path, lasting=True)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_checkpoint_comes_back(tmp_path):
    import torch

    content = dict.fromkeys(checkpoint.Checkpoint.__required_keys__)
    content |= {"format": checkpoint.FORMAT, "step": 3, "window": torch.ones(2, 3)}
    content["config"] = {"trainer": {"engine": "auto"}}
    checkpoint.save(tmp_path / "c.pt", content)
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["window"], torch.ones(2, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_missing_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="c.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


def test_only_a_piece_of_a_row_is_half_written(record):
    assert not record.is_half_written("train")
    with (record.folder / "train.csv").open("a") as file:
        file.write("40,1")
    assert record.is_half_written("train")
    assert not record.is_half_written("eval")
