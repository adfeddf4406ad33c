"""Analysis of run folders: tables, statistics, findings, figures, the report page.

``load_runs("multirun/NAME").runs`` is a table of runs, ``.evaluations`` and ``.training`` hold
their curves.
"""

from bcq_exp.analysis.runs import RunTables, load_runs

__all__ = ["RunTables", "load_runs"]
