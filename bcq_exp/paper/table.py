"""The paper's table: a row per setting and environment, a column per algorithm."""

from __future__ import annotations

from bcq_exp.analysis import tables
from bcq_exp.analysis.tables import Form
from bcq_exp.formatting import counted
from bcq_exp.paper.run_tables import Results, shown, task_name


def rows(results: Results, form: Form) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: the last evaluations' return, mean ± deviation over seeds.

    The best of a row is bold where its interval lies apart from every other's
    (:func:`bcq_exp.analysis.tables.standing_apart`). Cells with fewer runs than planned, or with
    runs that ended with a dead VAE, are marked.
    """
    head = ["", "behaviour", *map(shown, results.algorithms)]
    body = []
    for setting in results.settings:
        for env in results.envs:
            of_task = results.of_task(setting, env)
            returns = {
                algo: of_task.loc[of_task["algo"] == algo, "result"].dropna().to_numpy(float)
                for algo in results.algorithms
            }
            known = {algo: x for algo, x in returns.items() if len(x)}
            shown_cells = tables.compared_cells(known, form)
            behaviour = of_task["behaviour_return"].dropna().mean()
            planned = results.num_pairs // len(results.envs)
            cells = [
                shown_cells[algo]
                + f" ({len(known[algo])} of {planned})" * (len(known[algo]) < planned)
                + _dead(int(of_task.loc[of_task["algo"] == algo, "has_dead_vae"].sum()))
                if algo in known
                else ""
                for algo in results.algorithms
            ]
            body.append([task_name(setting, env), tables.digits(behaviour), *cells])
    return head, body


def _dead(count: int) -> str:
    return f" ({counted(count, 'dead VAE')})" if count else ""


def table(results: Results, form: Form) -> str:
    """Format the table as Markdown or LaTeX."""
    head, body = rows(results, form)
    return tables.captioned(head, body, form, "Mean ± standard deviation over seeds")
