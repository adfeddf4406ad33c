"""Reads what W&B wrote offline: LevelDB's log framing around protocol buffers."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER_SIZE, _BLOCK, _CHUNK_HEADER = 7, 32768, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """One W&B run.

    Args:
        identity: id, name, project, entity, group, job_type and tags.
        history: the logged rows, in order, with W&B's own ``_step``.
        metrics: definitions by name or pattern: (step metric, summaries).
    """

    identity: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self, prefix: str) -> list[dict[str, Any]]:
        """The rows logged under ``prefix/``, their names without it, each with its step."""
        return rows_under(prefix, self.history)


def rows_under(prefix: str, history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows logged under ``prefix/``, their names without it, each with its step."""
    start = f"{prefix}/"
    return [
        {k.removeprefix(start): v for k, v in row.items() if k == "step" or k.startswith(start)}
        for row in history
        if any(k.startswith(start) for k in row)
    ]


def read(folder: Path, mode: str = "offline") -> list[OfflineRun]:
    """The runs that W&B began offline, or online, below ``folder``, oldest first."""
    kind = {"offline": "offline-run", "online": "run"}[mode]
    return [_read(path) for path in sorted(folder.glob(f"wandb/{kind}-*/run-*.wandb"))]


def _read(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run, metric_names = OfflineRun(), {}
    for content in _contents(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.identity = {
                "id": record.run.run_id,
                "name": record.run.display_name,
                "project": record.run.project,
                "entity": record.run.entity,
                "group": record.run.run_group,
                "job_type": record.run.job_type,
                "tags": list(record.run.tags),
            }
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "metric":
            metric = record.metric
            name = metric.name or metric.glob_name
            metric_names[len(metric_names) + 1] = name
            step = metric.step_metric or metric_names.get(metric.step_metric_index, "")
            summaries = {f.name for f, value in metric.summary.ListFields() if value}
            old_step, old = run.metrics.get(name, ("", set()))
            run.metrics[name] = step or old_step, old | summaries
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _contents(log: bytes) -> Iterator[bytes]:
    """The records of a log, up to a tail that a kill cut off."""
    if log[:4] != b":W&B":
        raise ValueError("not a W&B log")
    position, parts = _HEADER_SIZE, b""
    while position < len(log):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER.size:  # zeros to the end of the block
            position += left
            continue
        if position + _CHUNK_HEADER.size > len(log):
            return
        checksum, size, kind = _CHUNK_HEADER.unpack_from(log, position)
        position += _CHUNK_HEADER.size
        chunk = log[position : position + size]
        position += size
        if len(chunk) < size or zlib.crc32(bytes([kind]) + chunk) != checksum:
            return
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts
