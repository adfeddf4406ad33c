"""``python -m bcq_exp.evaluate run=PATH``: evaluate a trained run again, or film it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.cli.entry import entry


@entry("evaluate", paths=("run", "video"))
def main(cfg: DictConfig) -> float:
    from bcq_exp.training import evaluation, restore, video

    run = restore.load_run(cfg.run, cfg.device, trusted=cfg.trust)
    make_env = run.env_maker(cfg.env)
    evaluator = evaluation.Evaluator(make_env, cfg.num_episodes, cfg.seed)
    results = evaluator.evaluate(run.agent)
    evaluator.close()
    print(
        f"return  {results.return_mean:.1f} ± {results.return_std:.1f} "
        f"over {cfg.num_episodes} episodes"
    )
    print(f"length  {results.length_mean:.0f} steps")
    print(f"lowest  {results.returns.min():.1f}   highest {results.returns.max():.1f}")
    path = restore.save_evaluation(cfg.run, run.step, cfg.seed, results, cfg.env)
    print(f"saved   {path}")
    if cfg.video is not None:
        assert results.first_actions is not None
        num_frames = video.film(results.first_actions, make_env, Path(cfg.video), cfg.seed)
        print(f"video   {cfg.video} ({num_frames} frames of the first episode)")
    return results.return_mean


if __name__ == "__main__":
    main()
