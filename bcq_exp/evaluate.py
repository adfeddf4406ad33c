"""``bcq_exp evaluate multirun/NAME``: evaluate a trained run on new episodes, or film it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcq_exp.cli.arguments import Parser, number, path, text
from bcq_exp.cli.command import command
from bcq_exp.formatting import counted, numbers
from bcq_exp.ranges import COUNT, DEVICE, FILM, SEED


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the returns of new episodes and write them to the run's folder."""
    parser = Parser(
        "bcq_exp evaluate",
        description="Evaluates the checkpoint of a run over fresh episodes, and can film one.",
    )
    parser.add_argument("run", type=path, help="the folder of a trained run")
    parser.add_argument(
        "--num-episodes", type=number(int, COUNT), default=100, metavar="N", help="episodes (100)"
    )
    parser.add_argument(
        "--env", help="another environment to evaluate in, an id or module:id (the run's)"
    )
    parser.add_argument(
        "--seed",
        type=number(int, SEED),
        default=2000,
        help="episode i starts from seed + i (2000); training's evaluations start at 1000",
    )
    parser.add_argument(
        "--device", type=text(DEVICE), default="auto", help="auto (default), cpu, cuda, cuda:N"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run custom code that the run's folder names"
    )
    parser.add_argument(
        "--video", type=text(FILM), metavar="FILE", help="write the first episode as .gif or .mp4"
    )
    options = parser.parse_args(arguments)

    from bcq_exp.training import evaluation, restore, video

    run = restore.load_run(options.run, options.device, trusted=options.trust)
    make_env = run.env_maker(options.env)
    evaluator = evaluation.Evaluator(make_env, options.num_episodes, options.seed)
    results = evaluator.evaluate(run.agent)
    print(f"step    {run.progress}")
    returns = results.return_mean, results.return_std, results.returns.min(), results.returns.max()
    mean, std, lowest, highest = numbers(*map(float, returns))
    print(f"return  {mean} ± {std} over {counted(options.num_episodes, 'episode')}")
    print(f"length  {counted(round(results.length_mean), 'step')}")
    print(f"lowest  {lowest}   highest {highest}")
    file = restore.save_evaluation(options.run, run.step, options.seed, results, options.env)
    print(f"saved   {file}")
    if options.video is not None:
        film = Path(options.video)
        num_frames = video.film(results.first_actions, make_env, film, options.seed)
        print(f"video   {film} ({counted(num_frames, 'frame')} of the first episode)")


if __name__ == "__main__":
    main()
