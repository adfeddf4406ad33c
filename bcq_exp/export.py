"""``bcq_exp export multirun/NAME``: a trained policy as one file that runs without bcq_exp."""

from __future__ import annotations

from collections.abc import Sequence

from bcq_exp.cli.arguments import Parser, path
from bcq_exp.cli.command import command


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the policy of a run's newest checkpoint and print its path."""
    parser = Parser(
        "bcq_exp export",
        description="Writes a trained policy to one file that runs without bcq_exp.",
    )
    parser.add_argument("run", type=path, help="the folder of a trained run")
    parser.add_argument(
        "--format",
        choices=("onnx", "torch"),
        default="onnx",
        help="onnx: policy.onnx (default); torch: policy.pt, a program of torch.export",
    )
    parser.add_argument("--output", type=path, metavar="FOLDER", help="where to write (the run's)")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="construct the custom algorithm and networks that the run's folder names",
    )
    options = parser.parse_args(arguments)

    from bcq_exp.training import policy_files, restore
    from bcq_exp.training.record import RunRecord

    run = restore.load_run(options.run, "cpu", trusted=options.trust)
    facts = RunRecord(options.run).required_summary()
    where = policy_files.write_policy(
        run.agent,
        options.format,
        options.output or options.run,
        {
            "run": str(options.run),
            "dataset": facts["dataset"]["id"],
            "columns": facts["dataset"].get("columns"),
            "algorithm": facts["algorithm"],
            "seed": facts["seed"],
            "step": run.step,
            "num_steps": run.num_steps,
        },
    )
    print(f"step    {run.progress}")
    for name, written in zip(("policy", "page"), where, strict=True):
        print(f"{name:6}  {written}")


if __name__ == "__main__":
    main()
