"""``bcq_exp evaluate multirun/NAME``: evaluate a trained run again, or film it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.cli.entry import entry
from bcq_exp.words import counted


@entry("evaluate", paths=("run", "video"), operand="run")
def main(cfg: DictConfig) -> float:
    from bcq_exp.training import evaluation, restore, video

    run = restore.load_run(cfg.run, cfg.device, trusted=cfg.trust)
    make_env = run.env_maker(cfg.env)
    evaluator = evaluation.Evaluator(make_env, cfg.num_episodes, cfg.seed)
    results = evaluator.evaluate(run.agent)
    evaluator.close()
    print(
        f"return  {results.return_mean:.1f} ± {results.return_std:.1f} "
        f"over {counted(cfg.num_episodes, 'episode')}"
    )
    print(f"length  {counted(round(results.length_mean), 'step')}")
    print(f"lowest  {results.returns.min():.1f}   highest {results.returns.max():.1f}")
    path = restore.save_evaluation(cfg.run, run.step, cfg.seed, results, cfg.env)
    print(f"saved   {path}")
    if cfg.video is not None:
        assert results.first_actions is not None
        num_frames = video.film(results.first_actions, make_env, Path(cfg.video), cfg.seed)
        print(f"video   {cfg.video} ({counted(num_frames, 'frame')} of the first episode)")
    return results.return_mean


if __name__ == "__main__":
    main()
