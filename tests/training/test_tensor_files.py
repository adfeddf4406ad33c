"""A file of tensors is as large as the numbers that belong to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bcq_exp
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.selection.candidates import Evidence
from bcq_exp.selection.fitted_q import FittedQ
from bcq_exp.training import checkpoint
from bcq_exp.training.cohort import train_cohort
from bcq_exp.training.cost import TENSOR_BYTES, cost_of
from bcq_exp.training.tensor_files import save_tensors
from tests.commands import TINY, compose, fit, spec_of
from tests.engine.test_online import ONLINE
from tests.same import assert_same_state, tensors
from tests.sweep.test_cohort import jobs_of

BRIEF = (*TINY, "trainer.num_steps=20", "trainer.checkpoint_every=10", "trainer.eval_every=20")


def num_bytes(content):
    """What its tensors take, each with its entry in the archive."""
    found = [x for x in tensors(content).values() if isinstance(x, torch.Tensor)]
    return sum(x.nbytes + TENSOR_BYTES for x in found)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The folders of runs that were trained as one stack."""
    jobs = jobs_of(
        tmp_path_factory.mktemp("stack"), ("seed=0",), ("seed=1",), ("seed=2",), base=BRIEF
    )
    assert train_cohort(jobs) == [None] * 3
    return [job.folder for job in jobs]


def test_a_view_is_written_without_what_lies_around_it(tmp_path):
    rows = torch.arange(2e6).reshape(1000, 2000)
    module = nn.BatchNorm1d(3)
    content = {
        "row": rows[3],
        "column": [rows[:5, 7]],
        "module": module.state_dict(),
        "n": (1, "a"),
    }
    save_tensors(content, tmp_path / "f")
    assert (tmp_path / "f").stat().st_size < 2000 * 4 + 5000
    found = torch.load(tmp_path / "f", weights_only=True)
    assert_same_state(found, content)
    assert found["module"]._metadata == content["module"]._metadata  # versions of its layers


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt"])
def test_a_checkpoint_of_a_stacked_run_holds_that_run_alone(name, stack):
    for folder in stack:
        wanted = num_bytes(checkpoint.load(folder / name))
        assert (folder / name).stat().st_size == pytest.approx(wanted, rel=0.05)


def test_kept_critics_of_policies_are_as_large_as_their_numbers(tmp_path):
    data = load_pendulum(num_steps=2000)
    evidence = Evidence(data)
    fitted = FittedQ(
        evidence,
        np.zeros((6, 2000, 1), np.float32),
        np.zeros((6, len(evidence.first_obs), 1), np.float32),
        FQESettings(num_steps=10, num_members=2, hidden_sizes=(64, 64)),
    )
    fitted.fit(tmp_path / "fqe.pt")
    wanted = num_bytes(torch.load(tmp_path / "fqe.pt", weights_only=True))
    assert (tmp_path / "fqe.pt").stat().st_size == pytest.approx(wanted, rel=0.05)


def test_nothing_else_writes_tensors():
    root = Path(bcq_exp.__file__).parent
    found = {path.name for path in root.rglob("*.py") if "torch.save(" in path.read_text()}
    assert found == {"tensor_files.py"}


def test_a_run_takes_about_the_disk_space_of_its_plan(stack, tmp_path):
    fit(tmp_path, *ONLINE)
    for folder, options in ((stack[0], BRIEF), (tmp_path, ONLINE)):
        assert size(folder) == pytest.approx(cost_of(spec_of(compose(*options))).disk, rel=0.25)


def test_what_an_online_run_collects_is_in_its_plan():
    long, short = (
        cost_of(spec_of(compose(*ONLINE, f"trainer.num_steps={n}"))) for n in (100_240, 240)
    )
    row = 4 * (3 + 1 + 1 + 3) + 2  # obs, act, rew, obs_next in single precision; two flags
    rows_of_tables = 100_000 / 20 + 100_000 / 120
    assert long.disk - short.disk == pytest.approx(
        2 * 100_000 * row + rows_of_tables * 200, rel=0.01
    )
