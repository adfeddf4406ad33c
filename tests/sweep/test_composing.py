"""A sweep's runs, composed with what they share composed once, are what Hydra composes for each."""

import copy
import itertools
import random
import time

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import Container, OmegaConf, open_dict

from bcq_exp.sweep.composing import SweepComposer, parted
from tests.commands import config_loader

FIXED = ("name=s", "logger=none", "trainer.num_steps=10", "hydra.verbose=true")
VALUES = {  # keys that a grid may sweep, as they stand on a command line
    "algo.gamma": ["0.9", "0.99"],
    "seed": ["0", "7", "12"],
    "logger.tags": ["[]", "[a,'b c']", "['x=1,y']"],
    "logger.group": ["null", "'${name}-${seed}'", "${oc.env:HOME}", "'a,b'", "${hydra:job.num}"],
    "trainer.objective": ["return_mean", "normalized_score"],
    "networks": ["small", "paper"],
    "algo": ["bcq", "bc", "td3_bc"],
    "experiment": ["tianshou", "paper", "null"],
    "optimizer@actor_optim": ["adam", "sgd"],
    "dataset": ["pendulum", "hopper_medium"],
    "+dataset.extra": ["1", "{a: 1}", "[1,2]"],
    "++trainer.batch_size": ["8", "16"],
    "++dataset": ["{seed: 4}", "{seed: 5, kind: {a: 1}}"],
    "~logger.job_type": ["", "train"],
    "+trainer.note": ["${trainer.batch_size}", "'${hydra:job.override_dirname}'"],
    "~experiment": [""],
    "+trainer@other": ["paper"],
}


@pytest.fixture(scope="module")
def hydra():
    """Hydra's loader, and the configuration of a sweep."""
    loader = config_loader()
    return loader, loader.load_configuration("config", list(FIXED), RunMode.MULTIRUN)


def outcome(compose, overrides):
    try:
        return compose(overrides)
    except (HydraException, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def random_grid(rng):
    """The runs of a grid over a few of VALUES, in random order beside what is fixed."""
    keys = rng.sample(list(VALUES), rng.randint(1, 4))
    values = [rng.sample(VALUES[key], rng.randint(1, len(VALUES[key]))) for key in keys]
    fixed = [override for override in FIXED if not override.startswith("hydra.")]
    place = rng.randint(0, len(fixed))
    for combination in itertools.islice(itertools.product(*values), 2):
        swept = [
            f"{key}={value}".removesuffix("=") for key, value in zip(keys, combination, strict=True)
        ]
        yield [*fixed[:place], *swept, *fixed[place:]]


def laid_open(node):
    """Everything of a node: its content unresolved, types, flags and resolved values' cache."""
    metadata = node._metadata
    seen = (type(node).__name__, str(metadata.ref_type), metadata.object_type, metadata.flags)
    content = node._value()
    if not isinstance(node, Container) or not isinstance(content, dict | list):
        return seen, content
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return seen, [(key, laid_open(below)) for key, below in items]


@pytest.mark.parametrize(("seed", "grids"), [(0, 6), pytest.param(1, 50, marks=pytest.mark.faults)])
def test_each_run_of_random_grids_is_what_hydra_composes_for_it_alone(hydra, seed, grids):
    loader, sweep = hydra
    composer = SweepComposer(loader, sweep)
    rng = random.Random(seed)
    compared = refused = 0
    for overrides in itertools.chain.from_iterable(random_grid(rng) for _ in range(grids)):
        alone = outcome(lambda given: loader.load_sweep_config(sweep, given), overrides)
        ours = outcome(composer.compose, overrides)
        if isinstance(alone, str):
            assert ours == alone, overrides
            refused += 1
        else:
            assert laid_open(ours) == laid_open(alone), overrides
            assert ours._metadata.resolver_cache == alone._metadata.resolver_cache
            own = composer.own(overrides)
            assert (own is None) == any("${" in override for override in overrides)
            assert own is None or laid_open(own) == laid_open(parted(ours)[0])
            compared += 1
    assert compared >= grids // 2
    assert refused >= 1


def test_what_runs_have_in_common_is_composed_once(hydra, monkeypatch):
    loader, sweep = hydra
    composer = SweepComposer(loader, sweep)
    calls = []
    by_hydra = loader.load_sweep_config
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda *args: calls.append(args[1]) or by_hydra(*args)
    )
    grid = itertools.product(("bcq", "bc"), range(100))
    started = time.process_time()
    seeds = [composer.compose([f"algo={algo}", f"seed={k}"]).seed for algo, k in grid]
    assert seeds == [*range(100), *range(100)]
    assert calls == [["algo=bcq"], ["algo=bc"]]
    assert time.process_time() - started < 10  # 200 by Hydra take half a minute


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
@pytest.mark.parametrize("swept", ["hydra.job.chdir=true", "hydra.searchpath=[pkg://nowhere]"])
def test_what_bears_on_more_than_values_is_left_to_hydra(hydra, swept):
    loader, sweep = hydra
    ours = SweepComposer(loader, sweep).compose(["seed=3", swept])
    assert laid_open(ours) == laid_open(loader.load_sweep_config(sweep, ["seed=3", swept]))


@pytest.mark.parametrize("group", ["plain", "run ${seed}", "job ${hydra:job.num} of ${seed}"])
def test_a_run_and_its_hydra_node_are_parted_as_hydra_parts_them(hydra, group):
    loader, sweep = hydra
    cfg = SweepComposer(loader, sweep).compose(["seed=3", f"logger.group='{group}'"])
    cfg.hydra.job.num = 7
    HydraConfig.instance().set_config(cfg)
    expected = copy.deepcopy(cfg)
    with open_dict(expected):
        del expected["hydra"]
    OmegaConf.resolve(expected)
    hydra_alone = OmegaConf.to_yaml(HydraConfig.instance().cfg)
    own, node = parted(cfg)
    assert laid_open(own) == laid_open(expected)
    assert own.logger.group == group.replace("${hydra:job.num}", "7").replace("${seed}", "3")
    assert OmegaConf.to_yaml(node) == hydra_alone
