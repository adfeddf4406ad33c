"""Write the results: report page, figures, tables, claims, and a row per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from bcq_exp.analysis import tables
from bcq_exp.analysis.figures import FORMATS
from bcq_exp.analysis.report import write_report
from bcq_exp.analysis.statistics import INTERVALS
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.analysis.tables import Form
from bcq_exp.files import write_atomically
from bcq_exp.formatting import counted
from bcq_exp.paper import curves
from bcq_exp.paper.claims import DATASETS_TO_DECIDE, ERROR, MATCHES, Decided
from bcq_exp.paper.experiments import LAST
from bcq_exp.paper.run_tables import Results, shown, task_name

COLUMNS = (
    "setting", "env", "algo", "seed", "status", "step", "result", "score", "behaviour_return",
    "behaviour_score", "agent_score", "best_return", "early_score", "overestimation",
    "has_dead_vae", "reason",
    "dataset", "dataset_hash", "config_hash", "git_commit", "command",
)  # fmt: skip
HOW = (
    f"Results are means over the evaluations of the last {LAST:.0%} of training; bands and ± are "
    "standard deviations over seeds. Differences are in points of the normalized score, between "
    "runs of the same data and seed, with an interval over data sets. p is that of an exact "
    "sign-flip test, in which pairs on one data set change sign together. A p of at most "
    f"{ERROR} decides, which needs {DATASETS_TO_DECIDE} data sets. Matching means at most "
    f"{MATCHES:.0f} points below. A failed run counts as the worst of its task. A claim is held if "
    "each of its parts is, and not held if one part is not, with Holm's correction over the "
    f"parts. {INTERVALS}"
)
CAPTIONS = {
    "curves": "Return; dashed: the behaviour policy, as recorded.",
    "values": "The critic's estimate of the value of the first state (solid) and the true "
    "discounted return (dotted); logarithmic beyond ±100.",
}


def write(results: Results, decided: Sequence[Decided], folder: Path) -> None:
    """Write everything into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = curves.drawn(results)
    texts = {
        "table.md": table(results, "md"),
        "table.tex": table(results, "tex"),
        "claims.md": claims_markdown(decided),
        "runs.csv": results.runs[list(COLUMNS)].to_csv(index=False),
    }
    for name, content in (drawn | {name: text.encode() for name, text in texts.items()}).items():
        write_atomically(folder / name, content)
    lead = _lead(results, decided, drawn)
    write_report(ComparedRuns(results.tables), folder / "index.html", lead=lead)


def claims_markdown(decided: Sequence[Decided]) -> str:
    """Format each claim with its verdict and comparisons."""
    lines = []
    for claim, verdict, decisions in decided:
        lines.append(f"- **{verdict}**: {claim.sentence}")
        lines += [f"  - {decision}" for decision in decisions]
    return "\n".join(lines) + "\n"


def table(results: Results, form: Form) -> str:
    """Format the paper's table as Markdown or LaTeX."""
    head, body = rows(results, form)
    return tables.captioned(head, body, form, "Mean ± standard deviation over seeds")


def rows(results: Results, form: Form) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a row per setting and environment, a column per algorithm.

    Cells are the last evaluations' return, mean ± deviation over seeds. The best of a row is bold
    where its interval lies apart from every other's
    (:func:`bcq_exp.analysis.tables.standing_apart`). Cells with fewer runs than planned, or with
    runs that failed after these evaluations or ended with a dead VAE, are marked.
    """
    head = ["", "behaviour", *map(shown, results.algorithms)]
    planned = results.num_pairs // len(results.envs)
    body = []
    for setting in results.settings:
        for env in results.envs:
            of_task = results.of_task(setting, env)
            known = of_task.dropna(subset="result").groupby("algo")
            returns = {str(algo): own["result"].to_numpy(float) for algo, own in known}
            cells = tables.compared_cells(returns, form)
            for algo, own in known:
                if len(own) < planned:
                    cells[str(algo)] += f" ({len(own)} of {planned})"
                if num_failed := int((own["status"] == "failed").sum()):
                    cells[str(algo)] += f" ({num_failed} failed)"
                if num_dead := int(of_task.loc[of_task["algo"] == algo, "has_dead_vae"].sum()):
                    cells[str(algo)] += f" ({counted(num_dead, 'dead VAE')})"
            behaviour = tables.digits(of_task["behaviour_return"].dropna().mean())
            found = [cells.get(algo, "") for algo in results.algorithms]
            body.append([task_name(setting, env), behaviour, *found])
    return head, body


def _lead(results: Results, decided: Sequence[Decided], drawn: Mapping[str, bytes]) -> str:
    parts = [
        '<section class="lead"><h2>Section 6 of the paper</h2>',
        f'<p class="how">{escape(HOW)}</p>',
    ]
    for claim, verdict, decisions in decided:
        items = "".join(f"<li>{escape(str(decision))}</li>" for decision in decisions)
        parts.append(
            f'<details class="verdict {verdict.replace(" ", "-")}"><summary><b>{verdict}</b>: '
            f"{escape(claim.sentence)}</summary><ul>{items}</ul></details>"
        )
    for name, caption in CAPTIONS.items():
        links = " ".join(f'<a href="{name}.{form}">{form.upper()}</a>' for form in FORMATS)
        parts.append(f'<p class="how">{escape(caption)} {links}</p>')
        svg = drawn[f"{name}.svg"].decode()
        parts.append(svg[svg.index("<svg") :])
    head, body = rows(results, "md")
    parts.append('<div class="scroll"><table><thead>' + _row(head, "th") + "</thead><tbody>")
    parts += [_row(cells, "td") for cells in body]
    parts.append("</tbody></table></div></section>")
    return "\n".join(parts)


def _row(cells: Sequence[str], tag: str) -> str:
    def formatted(text: str) -> str:
        bold = text.startswith("**")
        text = escape(text.replace("**", ""))
        return f"<b>{text}</b>" if bold else text

    return "<tr>" + "".join(f"<{tag}>{formatted(cell)}</{tag}>" for cell in cells) + "</tr>"
