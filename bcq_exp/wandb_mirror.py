"""``bcq_exp wandb mirror multirun/NAME``: W&B runs written again, from local files."""

from __future__ import annotations

from collections.abc import Sequence

from bcq_exp.cli.arguments import Parser, place
from bcq_exp.cli.command import command


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Write each run as an offline run of W&B and print the command that uploads it."""
    parser = Parser(
        "bcq_exp wandb mirror",
        description="Writes runs as offline W&B runs, from their local files.",
    )
    parser.add_argument("runs", nargs="+", type=place, help="folders of runs or sweeps, or globs")
    options = parser.parse_args(arguments)

    from bcq_exp.analysis.run_folders import run_folders
    from bcq_exp.training.wandb_export import mirror

    for folder in run_folders(*options.runs):
        print(f"wandb sync {mirror(folder)}", flush=True)


if __name__ == "__main__":
    main()
