"""``python -m bcq_exp.collect id=ID``: record a Minari data set with a behaviour policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bcq_exp.cli.entry import entry
from bcq_exp.errors import UserError

if TYPE_CHECKING:
    from gymnasium import Env
    from minari.data_collector.episode_buffer import EpisodeBuffer

    from bcq_exp.data.behaviour import Behaviour


@entry("collect", paths=("run",))
def main(cfg: DictConfig) -> float:
    import numpy as np

    from bcq_exp.data import behaviour, minari_store

    minari_store.check_new(cfg.id, overwrite=cfg.overwrite)
    env, episodes, how = (_collected_by_run if cfg.behaviour == "buffer" else _collected)(cfg)
    behaviour.save(
        cfg.id,
        episodes,
        env,
        algorithm_name=f"{cfg.behaviour} {cfg.run or ''}".strip(),
        description=f"{how}, recorded by bcq_exp.collect",
        overwrite=cfg.overwrite,
    )
    returns = [float(np.sum(episode.rewards)) for episode in episodes]
    print(f"id        {cfg.id}")
    print(f"steps     {sum(len(episode) for episode in episodes)}")
    print(f"episodes  {len(episodes)}")
    print(f"return    {np.mean(returns):.1f} ± {np.std(returns):.1f}")
    return float(np.mean(returns))


def _collected(cfg: DictConfig) -> tuple[Env, list[EpisodeBuffer], str]:
    """The environment, a behaviour's episodes in it, and how they came about."""
    from rich.progress import Progress

    from bcq_exp.data import behaviour
    from bcq_exp.data.spaces import check_action_space

    env, policy = _who_and_where(cfg)
    if cfg.noise_std or cfg.random_action_prob:
        space = check_action_space(cfg.id, env.action_space)
        policy = behaviour.Noisy(policy, space, cfg.noise_std, cfg.random_action_prob)
    with Progress() as progress:
        task = progress.add_task(cfg.id, total=cfg.num_steps)
        episodes = behaviour.collect(
            env,
            policy,
            num_steps=cfg.num_steps,
            seed=cfg.seed,
            on_step=lambda done: progress.update(task, completed=done),
        )
    noise = f"noise_std {cfg.noise_std}, random_action_prob {cfg.random_action_prob}"
    return env, episodes, f"{noise}, seed {cfg.seed}"


def _collected_by_run(cfg: DictConfig) -> tuple[Env, list[EpisodeBuffer], str]:
    """The same of a run that explored, all its steps: the paper's final buffer.

    Raises:
        UserError: if no run is named, it collected nothing, or what it did is asked for otherwise.
    """
    from bcq_exp.data import behaviour
    from bcq_exp.training import restore

    if cfg.run is None:
        raise UserError("behaviour=buffer: name the run, run=multirun/NAME")
    if cfg.noise_std or cfg.random_action_prob or cfg.env is not None:
        raise UserError(
            "behaviour=buffer: env, noise_std and random_action_prob are what the run had; leave "
            "them out"
        )
    steps, make_env, how = restore.load_collected(cfg.run)
    return make_env(), behaviour.as_episodes(steps), how


def _who_and_where(cfg: DictConfig) -> tuple[Env, Behaviour]:
    """The environment and the behaviour policy, before noise.

    Raises:
        UserError: if the two keys that name them do not fit together.
    """
    from bcq_exp.data import behaviour, environments
    from bcq_exp.data.spaces import check_action_space

    if cfg.behaviour == "run":
        if cfg.run is None:
            raise UserError("behaviour=run: name the run, run=multirun/NAME")
        from bcq_exp.training import restore

        agent, make_env = restore.load_agent(cfg.run)
        env = make_env() if cfg.env is None else environments.make(cfg.env)
        return env, restore.as_behaviour(agent, cfg.seed)
    if cfg.env is None:
        raise UserError(f"behaviour={cfg.behaviour}: name the environment, env=Pendulum-v1 say")
    env = environments.make(cfg.env)
    if cfg.behaviour == "random":
        return env, behaviour.UniformRandom(check_action_space(cfg.id, env.action_space))
    return env, behaviour.scripted(cfg.env)


if __name__ == "__main__":
    main()
