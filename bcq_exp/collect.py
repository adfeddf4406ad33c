"""``bcq_exp collect id=ID``: record a Minari data set with a behaviour policy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from bcq_exp.cli.child import Command, run
from bcq_exp.cli.entry import entry
from bcq_exp.config.checking import check_learning_begins
from bcq_exp.config.naming import as_name
from bcq_exp.config.overrides import key_and_value, online_agent
from bcq_exp.config.schema import source
from bcq_exp.errors import UserError
from bcq_exp.formatting import numbers

if TYPE_CHECKING:
    from gymnasium import Env
    from minari.data_collector.episode_buffer import EpisodeBuffer

    from bcq_exp.data.behaviour import Behaviour
    from bcq_exp.data.datasets import Dataset

    Origin = dict[str, Any] | None  # an agent's provenance, with the step of its checkpoint
    Collected = tuple[Env, list[EpisodeBuffer], Origin]

log = logging.getLogger(__name__)

DEFAULT_STEPS = 100_000
SHOW_EVERY = 100  # steps


@entry("collect", as_text=("run",), sweeps=False)
def main(cfg: DictConfig) -> float:
    import numpy as np

    from bcq_exp.data import minari_store

    minari_store.check_new(cfg.id, overwrite=cfg.overwrite)
    if cfg.dataset is not None or cfg.behaviour != "ddpg":
        _check_agent_is_used()
    if cfg.dataset is not None:
        return _converted(cfg)
    _check(cfg)
    with minari_store.reserve(cfg.id):
        returns = _record(cfg)
    mean, std = float(np.mean(returns)), float(np.std(returns))
    print(f"return    {' ± '.join(numbers(mean, std))}")
    return mean


def _record(cfg: DictConfig) -> list[float]:
    """Record and store the data set; return the returns of its episodes."""
    from bcq_exp.data import behaviour

    agent = _trained(cfg) if cfg.behaviour == "ddpg" else cfg.run
    collected = _collected_by_run if cfg.record == "buffer" else _collected
    env, episodes, origin = collected(cfg, agent)
    for note in behaviour.notes(episodes):
        log.warning("data set %r: %s", cfg.id, note)
    num_steps = sum(len(episode) for episode in episodes)
    how = _how(cfg, origin, num_steps)
    spaces = env.observation_space, env.action_space
    behaviour.check_room(*spaces, num_steps, len(episodes))
    behaviour.save(
        cfg.id,
        episodes,
        (*spaces, env.spec),
        algorithm_name=f"{cfg.behaviour} {agent or ''}".strip(),
        description=f"{_in_words(how)}, recorded by bcq_exp collect",
        provenance=how,
        overwrite=cfg.overwrite,
    )
    print(f"id        {cfg.id}")
    print(f"steps     {num_steps}")
    limit = None if env.spec is None else env.spec.max_episode_steps
    is_cut = limit is not None and len(episodes[-1]) < limit and not episodes[-1].terminations[-1]
    print(f"episodes  {len(episodes)}{', last one cut' if is_cut else ''}")
    return [float(sum(episode.rewards)) for episode in episodes]


def _converted(cfg: DictConfig) -> float:
    """Store the episodes of another data set, such as a table; return their mean return."""
    import numpy as np
    from gymnasium.spaces import Discrete

    from bcq_exp.data import behaviour, minari_store
    from bcq_exp.data.datasets import Dataset
    from bcq_exp.data.task import load_task
    from bcq_exp.training import provenance

    unused = {"run": None, "env": None, "behaviour": "scripted", "num_steps": None}
    for name, default in {**unused, "noise_std": 0.0, "random_action_prob": 0.0}.items():
        if (value := cfg[name]) != default:
            remedy = "set dataset.env" if name == "env" else "leave it out"
            raise UserError(
                f"{name}={value}: not used with dataset=..., whose episodes are stored "
                f"as they are; {remedy}"
            )
    dataset = load_task(cfg.dataset)
    if not isinstance(dataset, Dataset) or dataset.held_out is not None:
        raise UserError("dataset: must be a recorded data set, with dataset.holdout=null")
    steps = dataset.transitions.arrays()
    if isinstance(space := dataset.action_space, Discrete):
        steps["act"] = steps["act"][:, 0].astype(np.int64) + space.start
    num_episodes = len(behaviour.episode_edges(steps)) - 1
    for line in dataset.summary:
        print(line)
    for lost in _lost(dataset, num_episodes - int(np.count_nonzero(dataset.episode_rows))):
        log.warning("%s: a Minari data set does not hold %s", cfg.id, lost)
    with minari_store.reserve(cfg.id):
        behaviour.check_room(dataset.observation_space, space, len(steps["rew"]), num_episodes)
        behaviour.save(
            cfg.id,
            behaviour.as_episodes(steps),
            (dataset.observation_space, space, dataset.env_spec),
            algorithm_name="recorded",
            description=f"the episodes of {dataset.id}, stored by bcq_exp.collect",
            provenance={**dataset.facts(), "versions": provenance.versions()},
            reference_scores=dataset.reference_scores,
            overwrite=cfg.overwrite,
        )
    print(f"id        {cfg.id}")
    print(f"steps     {len(dataset.transitions)}")
    print(f"episodes  {num_episodes}")
    return dataset.behaviour_return


def _lost(dataset: Dataset, num_jumps: int) -> Iterator[str]:
    """Yield what a Minari data set cannot hold of this one, and what follows from it.

    Args:
        num_jumps: steps in an episode whose next observation is not that of the step after it.
    """
    if num_jumps:
        yield (
            "next observations that differ from the observation of the next step, so episodes end "
            f"at the {num_jumps} such steps, truncated"
        )
    if dataset.behaviour_prob is not None:
        yield (
            "the probabilities of dataset.behaviour_prob, so bcq_exp select will estimate the "
            "behaviour policy"
        )
    if dataset.env_text is not None and dataset.env_spec is None:
        yield (
            "an environment that is not registered here, so evaluations will need dataset.env; to "
            "keep it, give dataset.env=module:id now"
        )
    if len(dataset.leaves) > 1:
        yield "the parts of observations, so only an environment with flat observations will fit"
    columns = (dataset.columns or {}).get("observations", ())
    if names := [column["name"] for column in columns if column["kind"] != "number"]:
        yield (
            f"which columns are categories or booleans ({', '.join(names)}), so "
            "trainer.normalize_obs=true will scale their numbers"
        )


def _check_agent_is_used() -> None:
    """Refuse keys of an agent that is not trained.

    Raises:
        UserError: with the first of them.
    """
    from hydra.core.hydra_config import HydraConfig

    for override in HydraConfig.get().overrides.task:
        if key_and_value(override)[0].startswith("agent."):
            raise UserError(f"{override}: only used with behaviour=ddpg; leave it out")


def _check(cfg: DictConfig) -> None:
    """Refuse incompatible keys before anything is trained.

    Raises:
        UserError: naming the keys.
    """
    from bcq_exp.data import env_specs

    if cfg.behaviour == "run" and cfg.run is None:
        raise UserError("behaviour=run: needs the folder of a run; give run=multirun/NAME")
    if cfg.behaviour != "run" and cfg.run is not None:
        raise UserError(f"run={cfg.run}: only used with behaviour=run, not {cfg.behaviour}")
    if cfg.behaviour != "run" and cfg.env is None:
        raise UserError(f"behaviour={cfg.behaviour}: give the environment, such as env=Pendulum-v1")
    if cfg.env is not None:
        env_specs.find_spec(cfg.env, cfg.env)
    if cfg.behaviour == "ddpg":
        agent = cfg.agent
        check_learning_begins(
            "agent.num_steps", agent.num_steps, "agent.start_steps", agent.start_steps
        )
    if cfg.record == "policy":
        return
    if cfg.behaviour not in ("run", "ddpg"):
        raise UserError(f"record=buffer: needs behaviour=run or ddpg, not {cfg.behaviour}")
    if cfg.noise_std or cfg.random_action_prob or (cfg.behaviour == "run" and cfg.env is not None):
        raise UserError(
            "record=buffer: env, noise_std and random_action_prob are those of the run; leave them "
            "out (agent.noise_std is the noise of a new agent)"
        )


def _trained(cfg: DictConfig) -> str:
    """Return the folder of the agent's run, trained by its own command if necessary.

    Raises:
        UserError: if the run there was trained for more steps.
    """
    from bcq_exp.training.record import RunRecord

    agent = dict(cfg.agent)
    name = agent.pop("name") or f"ddpg_{as_name(cfg.env)}_noise{agent['noise_std']}_seed{cfg.seed}"
    run(Command("bcq_exp", (f"name={name}", *online_agent(**agent, env=cfg.env, seed=cfg.seed))))
    folder = Path("multirun", name)
    if (step := RunRecord(folder).required_summary()["step"]) > cfg.agent.num_steps:
        raise UserError(
            f"agent.num_steps={cfg.agent.num_steps}: the agent in {folder} has taken {step} steps; "
            "give its number of steps, or another agent.name"
        )
    return str(folder)


def _collected(cfg: DictConfig, agent: str | None) -> Collected:
    """Collect a behaviour's episodes."""
    from gymnasium.spaces import Discrete

    from bcq_exp.data import behaviour
    from bcq_exp.data.spaces import check_action_space
    from bcq_exp.training.progress import progress

    env, policy, origin = _who_and_where(cfg, agent)
    if cfg.noise_std or cfg.random_action_prob:
        space = check_action_space(cfg.id, env.action_space)
        if cfg.noise_std and isinstance(space, Discrete):
            raise UserError(
                f"noise_std={cfg.noise_std}: the environment's actions are {space}; use "
                "random_action_prob"
            )
        policy = behaviour.Noisy(policy, space, cfg.noise_std, cfg.random_action_prob)
    num_steps = DEFAULT_STEPS if cfg.num_steps is None else cfg.num_steps
    limit = env.spec.max_episode_steps if env.spec is not None else None
    least = -(-num_steps // (limit or num_steps))
    behaviour.check_room(env.observation_space, env.action_space, num_steps, least)
    with progress(0, num_steps, cfg.id) as shown:

        def show(done: int) -> None:
            if done % SHOW_EVERY == 0 or done == num_steps:
                shown.update(done, {})

        episodes = behaviour.collect(env, policy, num_steps=num_steps, seed=cfg.seed, on_step=show)
    return env, episodes, origin


def _collected_by_run(cfg: DictConfig, agent: str | None) -> Collected:
    """Return the episodes of a run that explored, from its first step."""
    from bcq_exp.data import behaviour
    from bcq_exp.training import restore

    assert agent is not None
    origin = restore.origin(agent)
    steps, make_env, step = restore.load_collected(agent, cfg.num_steps, trusted=_trusts(cfg))
    return make_env(), [*behaviour.as_episodes(steps)], {**origin, "step": step}


def _who_and_where(cfg: DictConfig, agent: str | None) -> tuple[Env, Behaviour, Origin]:
    """Return the environment, the behaviour policy before noise, and an agent's provenance."""
    from bcq_exp.data import behaviour, environments
    from bcq_exp.data.spaces import check_action_space

    if agent is not None:
        import torch

        from bcq_exp.training import restore

        torch.set_num_threads(1)  # one observation is too little work for several threads
        origin = restore.origin(agent)
        run = restore.load_run(agent, trusted=_trusts(cfg))
        policy = restore.as_behaviour(run.agent, cfg.seed)
        return run.env_maker(cfg.env)(), policy, {**origin, "step": run.step}
    env = environments.make(cfg.env)
    if cfg.behaviour == "random":
        space = check_action_space(cfg.id, env.action_space)
        return env, behaviour.UniformRandom(space), None
    return env, behaviour.scripted(cfg.env), None


def _trusts(cfg: DictConfig) -> bool:
    """Whether the agent's run may name third-party code: yes if this command trained it."""
    return cfg.trust or cfg.behaviour == "ddpg"


def _how(cfg: DictConfig, origin: Origin, num_steps: int) -> dict[str, Any]:
    """Return the data's provenance for their metadata: policy, noise, seeds, versions, commit."""
    from bcq_exp.training import provenance

    return {
        "behaviour": cfg.behaviour,
        "record": cfg.record,
        "num_steps": num_steps,
        "noise_std": cfg.noise_std,
        "random_action_prob": cfg.random_action_prob,
        "seed": cfg.seed,
        "agent": origin,
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
    }


def _in_words(how: dict[str, Any]) -> str:
    agent = how["agent"]
    if how["record"] == "policy":
        noise = f"noise_std {how['noise_std']}, random_action_prob {how['random_action_prob']}"
        return f"{noise}, seed {how['seed']}"
    exploring = source(agent["config"])
    return (
        f"{exploring['start_steps']} random steps, then noise_std {exploring['noise_std']}, seed "
        f"{agent['seed']}"
    )


if __name__ == "__main__":
    main()
