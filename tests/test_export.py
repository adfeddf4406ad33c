"""bcq_exp export: files that act as the policy does, where nothing of this project is imported."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from bcq_exp.algorithm.networks import VAE
from bcq_exp.algorithm.policy import DeterministicPolicy, Policy
from bcq_exp.errors import UserError
from bcq_exp.training import policy_files, restore
from bcq_exp.training.evaluation import Agent, ObsNormalizer
from tests.commands import algorithm_of, compose
from tests.forked import forked

pytest.importorskip("onnxruntime")

SMALL = ("networks=small", "policy.forward_sampled_times=10")
FACTS = dict(run="r", dataset="d", algorithm="A", seed=0, step=3, num_steps=4)
SPACES = (
    Box(-np.inf, np.inf, (4,), np.float32),
    Box(np.float32([-0.1, -300]), np.float32([0.2, 50])),
)
NORMALIZER = ObsNormalizer(np.array([3.0, -1e4, 0.0, 1.0]), np.array([0.1, 50.0, 1.0, 2.0]))
SCALED = "policy.action_scaling=true"
KINDS = {
    "bcq": ("algo=bcq", *SMALL, SCALED),
    "bcq, third-party critic": (
        *("algo=bcq", "policy.forward_sampled_times=10", "critic.hidden_sizes=[16]"),
        "critic._target_=tests.own.critics.UndeclaredCritic",
    ),
    "vae_bc": ("algo=vae_bc", "policy.action_bound_method=null"),
    "bc, clip": ("algo=bc", SCALED),
    "bc, tanh": ("algo=bc", SCALED, "policy.action_bound_method=tanh"),
    "bc, scaled": ("algo=bc", SCALED, "policy.action_bound_method=null"),
    "td3_bc": ("algo=td3_bc", "trainer.precision=fp64"),
    "ddpg": ("algo=ddpg", "trainer.precision=bf16"),
    "dqn": ("algo=dqn", SCALED),
    "discrete_bcq": ("algo=discrete_bcq",),
    "dqn, discrete": ("algo=dqn",),
    "bc, discrete": ("algo=bc",),
    "iql": ("algo=iql",),
    "cql": ("algo=cql", SCALED),
}
SIZES = (1, 7)
# what a user's process does: it gets the files and their inputs, and imports nothing of ours
ELSEWHERE = """
import json, sys, time
from pathlib import Path
import numpy as np
import onnxruntime
import torch

torch.set_num_threads(1)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1

def loaded(folder):
    session = onnxruntime.InferenceSession(folder / "policy.onnx", options)
    names = [x.name for x in session.get_outputs()]
    with open(folder / "policy.pt", "rb") as file:
        program = torch.export.load(file).module()

    def by_torch(inputs):
        with torch.no_grad():
            found = program(*map(torch.from_numpy, inputs.values()))
        found = found if isinstance(found, tuple) else (found,)
        return {name: x.numpy() for name, x in zip(names, found)}

    return {"onnx": lambda inputs: dict(zip(names, session.run(None, inputs))), "torch": by_torch}

seconds = {}
for folder in map(Path, sys.argv[1:]):
    for name, act in loaded(folder).items():
        for case in sorted(folder.glob("?.npz")):
            arrays = dict(np.load(case))
            inputs = {k: arrays[k] for k in ("obs", "latent") if k in arrays}
            outputs = act(inputs)
            np.savez(folder / f"{case.stem}.{name}", **outputs)
            if len(inputs["obs"]) == 1:
                times = [time.perf_counter()]
                for _ in range(200):
                    act(inputs)
                    times.append(time.perf_counter())
                seconds[f"{folder.name}/{name}"] = float(np.median(np.diff(times)))
ours = {"bcq_exp", "hydra", "omegaconf", "gymnasium"} & sys.modules.keys()
print(json.dumps({"ours": sorted(ours), "seconds": seconds}))
"""


def agent_of(*overrides, act=SPACES[1]):
    return Agent.of(algorithm_of(compose(*overrides), SPACES[0], act), NORMALIZER)


def inputs_of(agent, size):
    """Observations, the latents that a seeded generator draws for them, and the actions."""
    rng = np.random.default_rng(size)
    shape = agent.observation_space.shape
    obs = rng.normal([3.0, -1e4, 0.0, 1.0], [0.1, 50.0, 1.0, 2.0], (size, *shape))
    inputs = {"obs": obs.astype(np.float32)}
    if agent.policy.normal_shape is not None:
        drawn = (size, *agent.policy.normal_shape)
        dtype = next(agent.policy.parameters()).dtype
        normal = torch.randn(drawn, generator=torch.Generator().manual_seed(1), dtype=dtype)
        inputs["latent"] = normal.numpy().astype(np.float32)
    act = agent.act(inputs["obs"], torch.Generator().manual_seed(1))
    if act.dtype.kind == "f":
        return inputs, {"act": act}
    with torch.no_grad():
        scores = agent.policy.scores(torch.from_numpy(NORMALIZER(inputs["obs"])))
    return inputs, {"act": act, "scores": scores.numpy()}


def act_elsewhere(*folders):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, folders)],
        cwd=folders[0],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A kind's agents, their files, and what those did in a process of their own."""
    base = tmp_path_factory.mktemp("exported")
    agents = {}
    for name, overrides in KINDS.items():
        act = Discrete(5, start=-2) if "discrete" in name else SPACES[1]
        agents[name] = agent = agent_of(*overrides, act=act)
        folder = base / name
        for format in policy_files.FILES:
            policy_files.write_policy(agent, format, folder, FACTS)
        for size in SIZES:
            inputs, _ = inputs_of(agent, size)
            np.savez(folder / f"{size}.npz", **inputs)
    report = act_elsewhere(*(base / name for name in agents))
    return base, agents, report


@pytest.mark.slow  # writing ONNX takes seconds
def test_files_act_as_the_policy_does_without_this_project(exported):
    base, agents, report = exported
    assert report["ours"] == []
    for name, agent in agents.items():
        for size in SIZES:
            _, expected = inputs_of(agent, size)
            for format in policy_files.FILES:
                found = dict(np.load(base / name / f"{size}.{format}.npz"))
                assert_same_outputs(found, expected, f"{name}, {format}, {size}")
        assert_same_metadata(base / name, ["obs", "latent"][: len(inputs_of(agent, 1)[0])])
    # one observation takes less than a millisecond; torch's interpreter may on a busy machine
    seconds = report["seconds"]
    assert len(seconds) == 2 * len(agents)
    assert {k: s for k, s in seconds.items() if k.endswith("onnx") and s > 1e-3} == {}
    assert max(seconds.values()) < 1e-2


def assert_same_outputs(found, expected, where):
    """The action's numbers, to 1e-6 of its range, or its index and all scores."""
    assert found.keys() == expected.keys()
    act = expected["act"]
    assert found["act"].shape == act.shape
    assert len(act) == 1 or len(np.unique(act, axis=0)) > 1 or "discrete" in where
    if act.dtype.kind == "i":
        np.testing.assert_array_equal(found["act"], act, where)
        np.testing.assert_allclose(found["scores"], expected["scores"], 1e-5, 1e-6, err_msg=where)
    else:
        span = np.maximum(1, np.ptp([SPACES[1].low, SPACES[1].high], axis=0))
        np.testing.assert_allclose(found["act"] / span, act / span, 0, 1e-6, err_msg=where)


def assert_same_metadata(folder, inputs):
    """Both files say which run they are of, and what they take."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "policy.onnx")
    by_onnx = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
    files = {policy_files.METADATA: ""}
    with (folder / "policy.pt").open("rb") as file:
        torch.export.load(file, extra_files=files)
    assert json.loads(files[policy_files.METADATA]) == by_onnx
    assert by_onnx.items() >= FACTS.items()
    assert [x["name"] for x in by_onnx["inputs"]] == inputs


@pytest.mark.slow
def test_the_command_writes_a_file_and_a_page_whose_example_runs(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "multirun" / "r")
    done = forked("export", "multirun/r", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines() == [
        "step    60",
        "policy  multirun/r/policy.onnx",
        "page    multirun/r/policy.onnx.md",
    ]
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.copy(run / "checkpoint.previous.pt", unfinished / "checkpoint.pt")
    given = ("run=unfinished", "format=torch", "output=out/a")
    done = forked(*given, cwd=tmp_path, module="bcq_exp.export")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    step = restore.load_run(unfinished, "cpu").step
    assert 0 < step < 60
    assert f"step    {step} of 60: the run is not finished\n" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == [
        "policy.pt",
        "policy.pt.md",
    ]
    noise = np.random.default_rng(0).standard_normal((1, 5, 2), np.float32)
    for source, file in ((run, run / "policy.onnx"), (unfinished, tmp_path / "out/a/policy.pt")):
        page = file.with_name(f"{file.name}.md").read_text()
        found = restore.load_run(source, "cpu")
        assert f"BCQ (seed 0) after {found.step} of 60 gradient steps" in page
        assert "| `latent` | float32 | (B, 5, 2) |" in page
        with torch.no_grad():
            latent = torch.from_numpy(noise)
            expected = found.agent.policy.action(torch.zeros(1, 3), latent).numpy()
        example = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
        code = f"{example}import json, sys; print(json.dumps([act.tolist(), *sys.modules]))"
        ran = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True)
        assert ran.returncode == 0, ran.stderr
        act, *imported = json.loads(ran.stdout)
        np.testing.assert_allclose(act, expected, atol=2e-6)
        assert not {"bcq_exp", "hydra", "gymnasium"} & set(imported)


TABLE = """\
episode,time,age,sex,dose,drug,reward
a,0,61.5,f,0.5,A,0
a,1,62,f,0.25,B,0
a,2,63,f,0.75,A,1
b,0,20,x,0.1,A,0
b,1,21,x,0.3,A,0.5
b,2,22,x,0.2,B,0
c,0,44,m,0.9,B,0
c,1,45,m,0.6,A,1
c,2,46,m,0.4,B,1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "algo", "said"),
    [
        ("dose", "bc", "`act` has the columns `dose`."),
        ("drug", "discrete_bcq", '| `act` | `drug` |\n|---|---|\n| 0 | `"A"` |\n| 1 | `"B"` |'),
    ],
)
def test_the_page_of_a_tables_policy_encodes_a_row(column, algo, said, own_data, tmp_path):
    (tmp_path / "log.csv").write_text(TABLE)
    brief = ("trainer.num_steps=4", "trainer.batch_size=2", "trainer.engine=eager", "logger=none")
    data = ("dataset=table", "dataset.path=log.csv", "dataset.observations=[age,sex]")
    given = (*data, f"dataset.actions=[{column}]", f"algo={algo}", *brief, "hydra.run.dir=run")
    done = forked(*given, cwd=tmp_path, env=own_data)
    assert done.returncode == 0, done.stderr
    done = forked("export", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    page = (tmp_path / "run" / "policy.onnx.md").read_text()
    assert (
        '| 1 to 3 | `sex` | 1 at the place of its category, else 0: `"f"`, `"m"`, `"x"` |' in page
    )
    assert said in page
    load, encode = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = f"""{load}
row = {{"age": 45.0, "sex": "m"}}
{encode}
print(json.dumps([obs.tolist(), session.run(["act"], {{"obs": obs}})[0].tolist()]))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "run", capture_output=True)
    assert ran.returncode == 0, ran.stderr
    obs, act = json.loads(ran.stdout)
    assert obs == [[45, 0, 1, 0]]
    expected = restore.load_policy(tmp_path / "run").act(np.float32(obs))
    np.testing.assert_allclose(act, expected, atol=1e-6)


MISTAKES = [
    (["none"], "run=none: contains no checkpoint.pt"),
    (["run", "format=onxx"], "format=onxx: must be one of onnx, torch"),
    (["run", "output=file"], "output=file: not a folder"),
    (["run", "outptu=x"], "outptu=x: no such key; there are format, output, trust"),
    (["damaged"], "damaged/checkpoint.pt is damaged"),
    (["stranger"], "which is not part of bcq_exp; give trust=true"),
    ([], "the following arguments are required: run"),
]


@pytest.fixture(scope="module")
def mistaken(trained, tmp_path_factory):
    """A folder with a run, a damaged one and a stranger's."""
    base = tmp_path_factory.mktemp("mistaken")
    (base / "file").touch()
    for name in ("run", "damaged", "stranger"):
        (base / name).mkdir()
        for file in ("checkpoint.pt", "summary.json"):
            shutil.copy(trained / file, base / name)
    (base / "damaged" / "checkpoint.pt").write_bytes(b"PK")
    saved = torch.load(base / "stranger" / "checkpoint.pt", weights_only=True)
    saved["config"]["critic"]["_target_"] = "tests.own.critics.LayerNormCritic"
    torch.save(saved, base / "stranger" / "checkpoint.pt")
    return base


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_with_status_2(args, message, mistaken):
    before = sorted(mistaken.rglob("*"))
    done = forked("export", *args, cwd=mistaken)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert sorted(mistaken.rglob("*")) == before


def test_without_the_extra_a_line_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"^format=onnx: .*onnxscript.*\[export\]'?$"):
        policy_files.write_policy(agent_of("algo=bc"), "onnx", tmp_path / "a", FACTS)
    assert not (tmp_path / "a").exists()


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    def forward(self, x):
        return torch.stack([row for row in x])


class Drawing(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class AlwaysDropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


class LatentlessVAE(VAE):
    def __init__(self, **options):
        super().__init__(**options)
        self.latent_dim = 0


class SilentPolicy(Policy):
    def forward(self, batch, state=None, **kwargs):
        raise NotImplementedError


class OwnForward(DeterministicPolicy):
    def forward(self, batch, state=None, **kwargs):
        acting = super().forward(batch, state, **kwargs)
        acting.act *= 0
        return acting


def actor_with(layer):
    actor = nn.Sequential(nn.Linear(4, 2), layer)
    return DeterministicPolicy(actor=actor, action_space=SPACES[1], observation_space=SPACES[0])


def own_vae():
    policy = agent_of("algo=vae_bc").policy
    policy.vae.__class__ = LatentlessVAE
    policy.vae.latent_dim = 0
    return policy


REFUSED = {
    "a branch on values": (
        lambda: actor_with(Branching()),
        "actor.1 (Branching): cannot be exported",
    ),
    "a loop over rows": (lambda: actor_with(Counting()), "actor.1 (Counting): cannot be exported"),
    "random numbers": (
        lambda: actor_with(Drawing()),
        "actor.1 (Drawing): cannot be exported: it draws random numbers",
    ),
    "dropout in evaluation": (
        lambda: actor_with(AlwaysDropping()),
        "actor.1 (AlwaysDropping): cannot be exported: it draws random",
    ),
    "a VAE that draws its own latents": (own_vae, "vae: it draws its own random numbers"),
    "a policy of its own forward": (
        lambda: SilentPolicy(action_space=SPACES[1]),
        "policy: SilentPolicy has no action(obs, normal)",
    ),
    "a policy whose forward is not its action": (
        lambda: OwnForward(actor=nn.Linear(3, 2), action_space=SPACES[1]),
        "policy: OwnForward has a forward of its own",
    ),
}


def test_dropout_and_batch_norm_are_exported_in_evaluation_mode(tmp_path):
    policy = actor_with(nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)))
    policy.actor[1][1].running_mean += 3
    path, _ = policy_files.write_policy(Agent(policy), "torch", tmp_path, FACTS)
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(program(torch.from_numpy(obs)).detach(), policy.act(obs), rtol=1e-6)
    assert all(part.training for part in policy.modules())


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_exported_is_named(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(UserError) as refused:
        policy_files.write_policy(Agent(make()), "torch", tmp_path / "a", FACTS)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "a").exists()
