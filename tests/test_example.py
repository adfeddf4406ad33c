"""The worked example: its table is what its script makes, and its commands end with a policy."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcq_exp.training import restore
from tests.forked import forked

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "sepsis"
BRIEF = {
    "train": ("trainer.num_steps=40", "trainer.log_every=20"),
    "select": ("num_steps=60", "num_members=2", "hidden_sizes=[16]"),
}
RUNS = {"algo=bc", "algo=discrete_bcq", "threshold=0.03", "threshold=0.1"}


def script(name, *args, cwd):
    done = subprocess.run(
        [sys.executable, FOLDER / name, *args], cwd=cwd, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def rows():
    with (FOLDER / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_script_makes_the_table_again(tmp_path):
    script("make_data.py", tmp_path / "log.csv", cwd=tmp_path)
    assert (tmp_path / "log.csv").read_bytes() == (FOLDER / "log.csv").read_bytes()


def test_the_table_is_of_sick_patients_and_two_doctors():
    table = rows()
    assert (FOLDER / "log.csv").stat().st_size < 300_000
    outcomes = {row["stay_id"]: row["outcome"] for row in table}  # the last row's
    assert len(outcomes) == 600 and set(outcomes.values()) == {"1", "-1"}
    assert sum(row["outcome"] != "" for row in table) == len(outcomes)
    dose, pressure = (np.array([float(row[key]) for row in table]) for key in ("dose", "pressure"))
    is_eager = np.array([row["doctor"] == "eager" for row in table])
    assert set(dose) == {0, 1, 2, 3, 4}
    assert np.corrcoef(dose, pressure)[0, 1] < -0.3
    same = (pressure > 55) & (pressure < 65)
    assert dose[same & is_eager].mean() > dose[same & ~is_eager].mean() + 1


def recipe():
    """The arguments of the example's commands, as `make` passes them to the shell."""
    makefile = (ROOT / "Makefile").read_text()
    (found,) = re.findall(r"^example:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    return [line.strip().replace("$$", "$") for line in found.replace("\\\n", "").splitlines()]


@pytest.mark.slow
def test_the_commands_lead_from_the_table_to_a_policy_that_acts(tmp_path, own_data):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in recipe():
        expanded = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {line.replace('$(BIN)/', '')}"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        tool, *words = expanded
        if tool == "python":
            shown = script(Path(words[0]).name, *words[1:], "20", cwd=tmp_path)
            names = [line.split()[0] for line in shown.splitlines()[2:-1]]
            assert names[0] == "doctors" and set(names[1:]) == RUNS
            continue
        done = forked(*words, *BRIEF.get(words[0], ()), cwd=tmp_path, env=own_data)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "multirun" / "sepsis" / "report" / "index.html").is_file()
    (file,) = (tmp_path / "multirun").rglob("policy.onnx")
    assert str(file.relative_to(tmp_path)) in done.stdout
    check_acts(file)


def check_acts(file):
    """The code of the file's page gives a dose for rows of the table, that of the run's policy."""
    page = file.with_name("policy.onnx.md").read_text()
    load, encode = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    agent = restore.load_policy(file.parent)
    for text in rows()[::3000]:
        row = {name: parsed(value) for name, value in text.items()}
        code = f"""{load}
import json
metadata = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
row = {row}
{encode}
print(json.dumps([obs.tolist(), session.run(["act"], {{"obs": obs}})[0].tolist()]))
"""
        ran = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True)
        assert ran.returncode == 0, ran.stderr
        obs, (dose,) = json.loads(ran.stdout)
        assert dose in range(5) and [dose] == agent.act(np.float32(obs)).tolist()


def parsed(text):
    if text in ("True", "False"):
        return text == "True"
    return float(text) if re.fullmatch(r"-?[0-9.]+", text) else text
