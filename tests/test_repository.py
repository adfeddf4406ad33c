"""The repository's own files agree with each other and with the package."""

import re
import tomllib
from pathlib import Path
from zipfile import ZipFile

import yaml
from hatchling.builders.wheel import WheelBuilder

import bcq_exp

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*")
}
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def recipe(target):
    (found,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return found.splitlines()


def prerequisites(target):
    (found,) = re.findall(rf"^{target}:([^#\n]*)", MAKEFILE, re.MULTILINE)
    return found.split()


def test_one_version_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == bcq_exp.__version__
    headings = re.findall(r"^## \[(.*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", bcq_exp.__version__]


def test_the_quickstart_installs_the_package_alone_and_ends_with_its_report():
    assert prerequisites("quickstart") == ["$(PACKAGE)"]
    torch, package = (line for line in recipe(r"\$\(PACKAGE\)") if "$(PIP)" in line)
    assert torch.startswith("\t$(PIP) torch==") and package == "\t$(PIP) --editable ."
    assert recipe("quickstart")[-1].endswith("bcq_exp compare multirun/quickstart")


def test_nothing_but_its_own_target_installs_a_browser():
    assert [line for line in MAKEFILE.splitlines() if "apt-get" in line] == recipe("browser")[1:]
    assert not any("browser" in prerequisites(target) for target in TARGETS - {"browser"})


def test_workflows_run_targets_that_exist_on_the_versions_that_are_declared():
    jobs = [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    asked = {word.removeprefix("make ") for word in runs if "matrix" not in word}
    asked |= set(WORKFLOWS["nightly"]["jobs"]["slow"]["strategy"]["matrix"]["target"])
    assert asked == {"lint", "fast-test", "slow-test", "faults", "lowest-test", "docs"} <= TARGETS
    uses = {step["uses"] for job in jobs for step in job["steps"] if "uses" in step}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in uses)
    tested = WORKFLOWS["tests"]["jobs"]["fast"]["strategy"]["matrix"]["python-version"]
    classifier = "Programming Language :: Python :: 3."
    declared = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if c.startswith(classifier)]
    assert tested == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"


def test_files_that_are_named_exist():
    for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
        missing = [link for link in links if ":" not in link and not (ROOT / link).exists()]
        assert missing == [], page
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
    assert (
        {"setup", "test", "fast-test", "slow-test", "faults", "lowest-test", "browser"}
        <= named
        <= TARGETS
    )


def test_the_wheel_has_types_and_configuration(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (metadata,) = (archive.read(f).decode() for f in files if f.endswith("/METADATA"))
    for file in ("py.typed", "conf/config.yaml", "analysis/page/page.js"):
        assert f"bcq_exp/{file}" in files
    assert not any(file.startswith("tests/") for file in files)
    assert "Classifier: Typing :: Typed" in metadata


def test_private_interfaces_of_other_packages_stand_in_one_module():
    private = re.compile(
        r"hydra\._internal|wandb\.sdk|joblib\.externals|jax\._src"
        r"|\._(value|get_node|get_parent|key|return_value|to_model|apply_overrides\w*|save_config)\b"
    )
    files = (ROOT / "bcq_exp").rglob("*.py")
    found = {p.name: private.findall(p.read_text()) for p in files if p.name != "internals.py"}
    assert {name: names for name, names in found.items() if names} == {}
