"""A grammar of command lines: real keys, groups, options and paths with values of all sorts.

Left out is what would be right and take for ever, or leave this folder: many steps, other machines
(``ray``, ``submitit_*``), compilers, absolute paths and those that climb (``..``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st
from omegaconf import OmegaConf

from bcq_exp.config.identity import flattened
from tests.commands import CONF, compose

TINY = (
    "dataset.num_steps=300", "trainer.num_steps=2", "trainer.batch_size=4", "trainer.log_every=1",
    "trainer.eval_every=2", "trainer.eval_episodes=1", "trainer.checkpoint_every=2",
    "trainer.engine=eager", "logger=none",
)  # fmt: skip

# as they are typed; Hydra's grammar takes some of them for more than a value
VALUES = (
    "", "null", "None", "???", "true", "false", "0", "1", "2", "-1", "-0.0", "0.5", "1e400", "nan",
    "inf", "-inf", "9" * 40, "1_000", "0x10", "1e3", "'1'", "'", '"', "''", "' '", "a b", "a=b",
    "=", "a,b", ",", "1,2", "[]", "[1]", "[1,[2]]", "[1", "{}", "{a:1}", "{a:{b:2}}", "[0.9,0.99]",
    "[null]", "[a,b]", "ü", "日本", "\\", "\\,", "\n", "a\nb", "\t", "@", "a@b", ":", "a:b", "%",
    "$", "${", "${}", "${seed}", "${nope}", "${name}", "${oc.env:NOPE}", "${oc.env:HOME,1}",
    "${bcq.run_name:a,b}", "${hydra:job.num}", "${.seed}", "${now:%Y}", "range(0,3)", "range(3,0)",
    "range(a)", "interval(0,1)", "interval(1,0)", "choice()", "choice(0.1,0.2)", "choice(",
    "glob(*)", "glob(s*,exclude=small)", "sort(3,1)", "shuffle(range(0,3))",
    "tag(log,interval(1e-4,1))", "int(3.7)", "float(x)", "json_str(1)", "extend_list(1)", "a" * 300,
    "x" * 5000, "(", ")", "*", "?", "~", ".", "!", "# no", "$(ls)", "`", "\udcff", "auto", "cpu",
    "cuda", "small", "paper", "bcq", "bc", "restart", "Pendulum-v1",
)  # fmt: skip
FOLDERS = ("done", "sweep", "absent", "file", "empty", "broken", "*", "[", "done/", "./done", "")
LONG = ("num_steps", "eval_episodes", "num_episodes", "n_trials", "n_jobs", "num_workers")
HYDRA = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.mode", "hydra.verbose",
    "hydra.job.chdir", "hydra.job.name", "hydra.job.num", "hydra.output_subdir", "hydra.searchpath",
    "hydra.launcher.group_size", "hydra.sweeper.max_batch_size", "hydra.sweeper.params", "hydra",
    "hydra.nope", "hydra.callbacks", "hydra.env", "hydra/help", "hydra/job_logging", "hydra/output",
    "hydra/hydra_logging", "hydra/launcher", "hydra/sweeper", "hydra.sweeper.study_name",
)  # fmt: skip
PLAIN = {
    "bcq_exp.compare": (
        "--output", "--output=", "--output=file/x", "--which=best", "--which", "--format=md",
        "--format=tex", "--show=iqm", "--figures=figs", "--figures", "--figures=file/x",
        "--watch=-1", "--watch=nan",
        "--watch", "--nope", "-h", "figures=figs",
        "output=", "output=file/x", "which=best", "which=", "format=md", "show=iqm", "watch=-1",
        "watch=true", "nope=1", "runs=done", "output=null",
    ),
    "bcq_exp.status": (
        "--once", "--every", "--every=nan", "--every=-1", "--help", "once=true", "once=1",
        "every=1", "every=nan", "folder=sweep",
    ),
    "bcq_exp.wandb_sweep": (
        "--file", "--file=", "--file=file", "--project", "--project=", "--entity=", "seed=1",
        "file=", "file=file", "project=", "project=p", "entity=", "create=false",
    ),
    "bcq_exp.wandb_workspace": (
        "--dry-run", "dry_run=true", "project=p", "project=", "runs=", "runs=sweep", "runs=done",
        "runs=absent", "keys=", "keys=a,,b", "keys=algo.tau", "entity=", "name=",
    ),
    "bcq_exp.evaluate": (
        "run=done", "run=broken", "num_episodes=1", "num_episodes=0", "--num-episodes=1", "seed=-1",
        "device=cpu", "device=", "video=", "video=a.gif", "env=Pendulum-v1", "trust=true", "-m",
    ),
    "bcq_exp.wandb_mirror": ("--nope",),
    "bcq_exp.export": (
        "--format", "--format=onxx", "format=", "--output", "output=", "output=file",
        "output=file/x", "output=out", "--trust=1", "trust=", "trust=true", "run=done", "run=",
        "outptu=x", "-h",
    ),
    "bcq_exp.select": (
        "--num-steps", "num_steps=0", "num_steps=nan", "epsilon=1", "horizon=0", "horizon=2",
        "gamma=2", "hidden_sizes=[]", "hidden_sizes=[8]", "return_range=1", "return_range=[1,0]",
        "output=file", "output=out", "output=", "trust=", "nope=1", "-h",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A command line: ``python -m module arguments``."""

    module: str
    arguments: tuple[str, ...]


def keys_of(config_name: str, *needed: str) -> dict[str, str]:
    """Every key of a command with the value it has, and every node, with none."""
    cfg = compose(*needed, config_name=config_name)
    content: Mapping = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    leaves = {key: "null" if v is None else str(v) for key, v in flattened(content)}
    nodes = {key.rpartition(".")[0] for key in leaves} - {""}
    return {**dict.fromkeys(sorted(nodes), "{}"), **leaves}


def groups() -> dict[str, list[str]]:
    """Groups of choices, each with its choices."""
    folders = [p for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"]
    return {p.name: sorted(c.stem for c in p.glob("*.yaml")) for p in sorted(folders)}


def is_bounded(key: str, value: str) -> bool:
    """Whether a value is wrong, or soon done with."""
    last = key.lstrip("+~").rpartition(".")[2].rpartition("/")[2]
    if last in ("dir", "subdir", "searchpath", "output_subdir", "path", "run", "video", "id"):
        return not value.lstrip("'\"").startswith(("/", "~")) and ".." not in value
    return last not in LONG or value not in ("true", "9" * 40, "1_000", "0x10", "1e3", "int(3.7)")


values = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(FOLDERS),
    st.integers(-3, 3).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0/~", codec="utf-8"), max_size=12),
)


def overrides(keys: Mapping[str, str]) -> st.SearchStrategy[str]:
    """``key=value`` of keys and groups, with prefixes, typos and what is none at all."""
    choices = groups()
    group = st.sampled_from(sorted(choices)).flatmap(
        lambda name: st.builds(
            lambda at, choice: f"{name}{at}={choice}",
            st.sampled_from(["", "", "", "@actor", "@actor_optim", "@nope", "@"]),
            st.one_of(st.sampled_from(choices[name]), st.sampled_from(VALUES)),
        )
    )
    known = st.sampled_from(list(keys))
    names = st.one_of(known, known, st.sampled_from(HYDRA))
    typo = st.tuples(names, st.integers(0, 20)).map(lambda t: t[0][: t[1]] + t[0][t[1] + 1 :])
    pair = st.builds(
        lambda prefix, key, value: (prefix + key, value),
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        st.one_of(names, names, names, typo),
        values,
    )
    bounded = pair.filter(lambda p: is_bounded(*p)).map("=".join)
    right = st.sampled_from(
        [f"{key}={value}" for key, value in keys.items() if key.rpartition(".")[2] not in LONG]
    )
    bare = st.one_of(names.map("~{}".format), names, st.sampled_from(VALUES))
    return st.one_of(bounded, bounded, bounded, right, right, group, bare.filter(is_no_option))


def is_no_option(word: str) -> bool:
    return not word.startswith("-")


def hydra_lines(
    module: str, keys: Mapping[str, str], base: tuple[str, ...]
) -> st.SearchStrategy[Line]:
    """Of a command that Hydra composes; ``base`` is what it has to be given."""
    options = st.sampled_from(
        [
            ("-m",), ("--multirun",), ("--cfg", "job"), ("--cfg", "hydra"), ("--cfg", "nope"),
            ("--cfg",), ("--resolve",), ("--cfg", "all", "--resolve"),
            ("--package", "algo", "--cfg", "job"), ("--package", "nope"), ("--info", "searchpath"),
            ("--info", "nope"), ("-cn", "collect"), ("-cn", "nope"), ("-cn", ""), ("-cn",),
            ("-cd", "absent"), ("-cd", "empty"), ("-cd", "file"), ("-cd", ""), ("-cp", "absent"),
            ("-cp", ""), ("--config-dir", "done"), ("--version",), ("--nope",), ("-x",), ("--",),
            ("-",), ("--run",), ("-r", "-m"), ("--hydra-help", "--nope"),
            ("--experimental-rerun", "absent"), ("--experimental-rerun", "file"),
            ("-sc", "nope=bash"),
        ]
    )  # fmt: skip
    return st.builds(
        lambda some, given, first: Line(
            module, (*base, *some, *given) if first else (*some, *given, *base)
        ),
        st.one_of(st.just(()), st.just(()), st.just(()), options),
        st.lists(overrides(keys), min_size=1, max_size=2).map(tuple),
        st.booleans(),
    )


QUICK = {  # what keeps a line that is right short
    "bcq_exp.export": ("format=torch",),
    "bcq_exp.select": ("num_steps=2", "num_members=1", "batch_size=4"),
}


def plain_lines(module: str, options: tuple[str, ...]) -> st.SearchStrategy[Line]:
    """Of a command with plain arguments."""
    words = st.one_of(
        st.sampled_from(FOLDERS),
        st.sampled_from(options),
        st.sampled_from(options),
        values.filter(lambda v: not v.startswith(("/", "~")) and ".." not in v),
    )
    base = QUICK.get(module, ())
    return st.lists(words, max_size=4).map(lambda given: Line(module, (*base, *given)))


def lines() -> st.SearchStrategy[Line]:
    """Of every command; half of them train."""
    collect = ("id=a/b-v0", "env=Pendulum-v1", "num_steps=3")
    # its estimate takes seconds: refused before it, by an environment that is none
    paper = ("budget=tiny", "plan_only=true", "envs=[nope]")
    trained = hydra_lines("bcq_exp", keys_of("config"), TINY)
    others = [
        hydra_lines("bcq_exp.collect", keys_of("collect", *collect), collect),
        hydra_lines("bcq_exp.paper", keys_of("paper"), paper),
        *(plain_lines(module, options) for module, options in PLAIN.items()),
    ]
    return st.integers(0, 2 * len(others) - 1).flatmap(
        lambda k: others[k] if k < len(others) else trained
    )
