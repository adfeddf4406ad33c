"""The keys by which runs are grouped: those of the report that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bcq_exp.config.identity import report_keys
from bcq_exp.config.naming import short_names

ALGORITHM = "algo"
_OF_DATA = "dataset."
# keys of data sets that runs are not grouped by: the id and hash of the contents say what they do
ORIGIN = {
    f"{_OF_DATA}{name}" for name in ("_target_", "id", "path", "download", "use_cache", "level")
}


def compared_keys(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the compared keys of runs; the algorithm by its short name if that is unique."""
    targets = [str(config["algo"]["_target_"]) for config in configs]
    names = short_names(dict.fromkeys(targets))
    found = []
    for config, target in zip(configs, targets, strict=True):
        keys = report_keys(config)
        kept = {key: value for key, value in keys.items() if key not in ORIGIN}
        del kept["algo._target_"]
        found.append({ALGORITHM: names[target], **kept})
    return found


def differing_keys(configs: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    """Keys that differ, the algorithm first; others than that among runs of one algorithm, and
    those of the data set among runs on one."""
    algorithms = list(dict.fromkeys(config[ALGORITHM] for config in configs))
    found = [ALGORITHM] if len(algorithms) > 1 else []
    for algorithm in algorithms:
        alike = [
            (config, task)
            for config, task in zip(configs, tasks, strict=True)
            if config[ALGORITHM] == algorithm
        ]
        for key in dict.fromkeys(key for config, _ in alike for key in config):
            values: dict[str, set[str]] = {}
            for config, task in alike:
                value = json.dumps(config.get(key))  # older runs lack keys that are null by default
                values.setdefault(task if key.startswith(_OF_DATA) else "", set()).add(value)
            if any(len(each) > 1 for each in values.values()):
                found.append(key)
    return list(dict.fromkeys(found))
