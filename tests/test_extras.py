"""What is optional: a missing module is one line with the command that installs it here."""

import json
import shlex
import sys
from importlib.metadata import Distribution, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bcq_exp import extras
from bcq_exp.errors import UserError
from bcq_exp.sweep import search
from bcq_exp.sweep.submitted import Submitit
from bcq_exp.sweep.workers import Joblib, Ray
from bcq_exp.training import policy_files
from bcq_exp.wandb_workspace import workspace

CHECKOUT = Path(extras.__file__).parents[1]
GIT = "https://example.org/bcq_exp.git"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def installed(monkeypatch, folder, origin, installer="pip"):
    """As if a wheel's installation in ``folder`` were this package's."""
    monkeypatch.setattr(extras, "__file__", str(folder / "bcq_exp" / "extras.py"))
    info = folder / "bcq_exp-0.2.0.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text(f"{installer}\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(extras, "distribution", lambda _: Distribution.at(info))


def test_a_clone_is_installed_again_from_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(CHECKOUT)
    assert extras.install_command("ray").removeprefix("uv ") == "pip install -e '.[ray]'"
    monkeypatch.chdir(tmp_path)
    command = extras.install_command("ray").removeprefix("uv ")
    assert shlex.split(command) == ["pip", "install", "-e", f"{CHECKOUT}[ray]"]


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        (None, None),
        ({"url": GIT, "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, f"git+{GIT}@{COMMIT}"),
        (
            {"url": GIT, "vcs_info": {"vcs": "git", "commit_id": COMMIT}, "subdirectory": "a"},
            f"git+{GIT}@{COMMIT}#subdirectory=a",
        ),
        ({"url": "file:///tmp/b.whl", "archive_info": {}}, "file:///tmp/b.whl"),
        ({"url": "file:///home/me/bcq_exp", "dir_info": {}}, "file:///home/me/bcq_exp"),
    ],
    ids=["index", "git", "subdirectory", "wheel", "folder"],
)
def test_an_installation_is_extended_from_where_it_came(origin, url, monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path, origin)
    *pip, asked = shlex.split(extras.install_command("slurm"))
    assert pip == ["pip", "install"]
    requirement = Requirement(asked)
    assert (requirement.name, requirement.extras, requirement.url) == ("bcq_exp", {"slurm"}, url)


def test_uv_is_asked_where_it_installed(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path, None, installer="uv")
    assert extras.install_command("ray") == "uv pip install 'bcq_exp[ray]'"


def test_a_module_that_is_here_is_imported_and_another_named(monkeypatch):
    assert extras.require("json", "ray", "x") is json
    monkeypatch.setitem(sys.modules, "no_such_module", None)
    with pytest.raises(UserError, match=r"^hydra/launcher=ray: .*no_such_module.*'.*\[ray\]'$"):
        extras.require("no_such_module", "ray", "hydra/launcher=ray")


NEEDED = [
    ("onnxscript", "export", lambda: policy_files.write_policy(None, "onnx", Path(), {})),
    ("joblib", "joblib", lambda: Joblib(2)),
    ("ray", "ray", lambda: Ray(2, {}, {})),
    ("submitit", "slurm", lambda: Submitit("local", 2, "%j", {})),
    ("optuna", "optuna", search._optuna),
    ("wandb_workspaces", "workspace", lambda: workspace("p", "e", "n", None)),
]


@pytest.mark.parametrize(("module", "extra", "use"), NEEDED, ids=[needed[0] for needed in NEEDED])
def test_what_needs_a_package_names_its_extra(module, extra, use, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"install it: (uv )?pip install .*\[{extra}\]"):
        use()
    assert extra in metadata("bcq_exp").get_all("Provides-Extra")
