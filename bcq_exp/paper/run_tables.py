"""The learners' runs as tables; a task is a setting in an environment."""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bcq_exp.algorithm.alerts import DEAD_VAE
from bcq_exp.analysis.compared_keys import ALGORITHM
from bcq_exp.analysis.runs import RunTables, load_runs
from bcq_exp.data import env_scores, env_specs
from bcq_exp.errors import UserError
from bcq_exp.paper.experiments import EARLY, LAST, PaperPlan
from bcq_exp.training.record import RunRecord

NAMES = {  # as the paper writes them
    "bcq": "BCQ", "bc": "BC", "vae_bc": "VAE-BC", "ddpg": "DDPG", "dqn": "DQN", "td3_bc": "TD3+BC",
    "iql": "IQL", "cql": "CQL",
    "final_buffer": "final buffer",
}  # fmt: skip


def shown(name: str) -> str:
    """The paper's name of an algorithm or a setting."""
    return NAMES.get(name, name)


def task_name(setting: str, env: str) -> str:
    """The name of a setting in an environment."""
    return f"{shown(setting)}, {env}"


class Results:
    """The results of a plan's learners so far.

    Args:
        runs: a row a run: setting, env, algo (as ``algo=`` has it), seed; score: normalized, the
            mean of the last evaluations; early_score: of the first; behaviour_score: of the
            recorded episodes; agent_score: of the agent that collected them, without its noise;
            overestimation: sign(d) log10(1 + |d|) of d, the critic's
            estimate less the discounted return, over the last evaluations; closeness: minus its
            absolute value; has_dead_vae: at its end, missing where it was not recorded.
        evaluations: a row an evaluation, with the columns of ``eval.csv``; ``run`` is its run's
            index.
        tables: the same for :mod:`bcq_exp.analysis`.
    """

    def __init__(self, plan: PaperPlan) -> None:
        places = {
            folder: (sweep.setting, sweep.env, algo)
            for sweep in plan.sweeps
            for (algo, _), folder in sweep.folders.items()
            if RunRecord(folder).has_begun
        }
        if not places:
            raise UserError(f"name={plan.name}: no learner has started, so there are no results")
        loaded = load_runs(*(glob.escape(str(folder)) for folder in places))
        of_run = [places[Path(folder)] for folder in loaded.runs["folder"]]
        self.settings = list(dict.fromkeys(sweep.setting for sweep in plan.sweeps))
        self.envs = list(dict.fromkeys(sweep.env for sweep in plan.sweeps))
        self.algorithms = list(dict.fromkeys(a for s in plan.sweeps for a, _ in s.folders))
        self.evaluations = _with_columns(loaded.evaluations)
        steps = loaded.runs["num_steps"]
        early = _means(self.evaluations, 0 * steps, EARLY * steps)
        last = _means(self.evaluations, (1 - LAST) * steps, steps)
        error = last["value_mean"] - last["discounted_return_mean"]
        over = np.sign(error) * np.log10(1 + error.abs())
        runs = loaded.runs.assign(
            setting=[setting for setting, _, _ in of_run],
            env=[env for _, env, _ in of_run],
            algo=[algo for _, _, algo in of_run],
            result=last["return_mean"],
            score=last["normalized_score"],
            early_score=early["normalized_score"],
            overestimation=over,
            closeness=-over.abs(),
            has_dead_vae=_have_dead_vae(loaded.runs["trouble"]),
        )
        runs["behaviour_score"] = _behaviour_scores(runs)
        by_itself = {dataset.id for dataset in plan.datasets if dataset.is_agent_itself}
        runs["agent_score"] = runs["behaviour_score"].where(
            runs["dataset"].isin(by_itself), runs["dataset"].map(_agent_scores(plan))
        )
        self.num_pairs = len(self.envs) * len({seed for s in plan.sweeps for _, seed in s.folders})
        self.runs = runs
        self.tables = _as_tables(loaded, runs)

    def ended(self, algo: str, setting: str) -> pd.DataFrame:
        """Return the runs of an algorithm in a setting that completed or failed, by (env, seed).

        The column ``has_failed`` is added; a failed run is the worst of its task in every measure.
        """
        of_setting = self.runs[self.runs["setting"] == setting]
        ended = of_setting["status"].isin(["completed", "failed"])
        runs = of_setting[(of_setting["algo"] == algo) & ended].copy()
        has_failed = (runs["status"] == "failed") | runs["score"].isna()
        worst = _worst(of_setting)
        for measure in worst:
            runs[measure] = runs[measure].where(~has_failed, runs["env"].map(worst[measure]))
        return runs.assign(has_failed=has_failed).set_index(["env", "seed"])

    def of_task(self, setting: str, env: str) -> pd.DataFrame:
        """The runs of a setting in an environment so far."""
        return self.runs[(self.runs["setting"] == setting) & (self.runs["env"] == env)]


def _have_dead_vae(trouble: pd.Series) -> pd.api.extensions.ExtensionArray:
    found = [None if kinds is None else DEAD_VAE.kind in kinds for kinds in trouble]
    return pd.array(found, dtype="boolean")


def _with_columns(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Add missing columns so later code can read them."""
    wanted = ("normalized_score", "return_mean", "discounted_return_mean", "value_mean")
    return evaluations.reindex(columns=list(dict.fromkeys([*evaluations, *wanted])))


def _means(evaluations: pd.DataFrame, after: pd.Series, until: pd.Series) -> pd.DataFrame:
    """The mean of each run's evaluations between two steps; NaN where there are none."""
    step, run = evaluations["step"], evaluations["run"]
    wanted = evaluations[(step > run.map(after)) & (step <= run.map(until))]
    return wanted.groupby("run").mean().reindex(after.index)


def _worst(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the least of each measure among a setting's runs and behaviours, by environment."""
    scores = runs[["score", "early_score", "behaviour_score", "agent_score"]].min(axis=1)
    least = {
        "score": scores,
        "early_score": scores,
        "closeness": runs["closeness"],
        "overestimation": runs["overestimation"].clip(upper=0).fillna(0),  # 0 has none
    }
    return pd.DataFrame(least).groupby(runs["env"]).min()


def _behaviour_scores(runs: pd.DataFrame) -> pd.Series:
    """The recorded behaviour's return on the scale of the normalized scores."""
    scales = {
        env: env_scores.reference_scores(env_specs.find_spec(env, env))
        for env in runs["env"].unique()
    }
    pairs = zip(runs["env"], runs["behaviour_return"], strict=True)
    scores = [env_scores.normalized_score(ret, scales[env]) for env, ret in pairs]
    return pd.Series(scores, index=runs.index, dtype=float)


def _agent_scores(plan: PaperPlan) -> dict[str, float]:
    """Return the score of the agent that collected each data set.

    For data of all its training it is the mean of the last evaluations, for data of its final
    policy the last one."""
    found = {}
    for dataset in plan.datasets:
        record = RunRecord(dataset.agent)
        summary = record.summary()
        rows = pd.DataFrame(record.rows("eval", summary and summary["record"]))
        if rows.empty:
            continue
        if dataset.record == "buffer":
            end = dataset.num_steps
            rows = rows[rows["step"].between((1 - LAST) * end, end, inclusive="right")]
        else:
            rows = rows.tail(1)
        found[dataset.id] = float(rows["normalized_score"].mean())
    return found


def _as_tables(loaded: RunTables, runs: pd.DataFrame) -> RunTables:
    """Tables for the report: runs by algorithm, tasks as data sets, results as evaluations."""
    tasks = pd.Series(list(map(task_name, runs["setting"], runs["env"])), index=runs.index)
    shown = loaded.runs.assign(
        dataset=tasks,
        behaviour_return=runs.groupby(tasks)["behaviour_return"].transform("mean"),
        last_return=np.where(runs["result"].isna(), loaded.runs["last_return"], runs["result"]),
        last_score=np.where(runs["score"].isna(), loaded.runs["last_score"], runs["score"]),
    )
    return replace(loaded, runs=shown, keys=(ALGORITHM,))
