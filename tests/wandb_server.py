"""A loopback server that speaks as much of W&B's protocol as a run needs, and fails as told."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.wandb_reader import rows_under

Mode = Literal["good", "denied", "broken", "silent", "half"]


class WandbServer(ThreadingHTTPServer):
    """Answers at ``url``, as a context manager.

    Args:
        mode: good; denied (401 to all), broken (500), silent (accepts and never answers), half
            (ends in the middle of an answer). It may be changed at any time.
    """

    daemon_threads = True

    def __init__(self, mode: Mode) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = mode
        self.requests = 0
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._lines: dict[str, dict[int, dict[str, Any]]] = {}  # of each run, by their number

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def rows(self, run_id: str, prefix: str) -> list[dict[str, Any]]:
        """What a run has under ``prefix/``, names without it, each row with its step."""
        lines = [line for _, line in sorted(self._lines.get(run_id, {}).items())]
        return rows_under(prefix, lines)

    def take(self, run_id: str, files: dict[str, Any]) -> None:
        """A part of a run's files, as its file stream has them."""
        part = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        lines = self._lines.setdefault(run_id, {})
        for number, line in enumerate(part["content"], part["offset"]):
            lines[number] = json.loads(line)

    def num_lines(self, run_id: str) -> int:
        return len(self._lines.get(run_id, {}))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        self.server.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        mode = self.server.mode
        if mode == "silent":
            self.server.closing.wait()
        elif mode == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self._good(body)  # what its first half promised
            self.wfile.write(b'{"data": {"upsert')
        elif mode != "good":
            status = {"denied": 401, "broken": 500}[mode]
            self._answer({"errors": [{"message": mode}]}, status)
        else:
            self._answer(self._good(body))
            return
        self.close_connection = True

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass

    def _good(self, body: bytes) -> dict[str, Any]:
        if self.path.endswith("/file_stream"):
            _, _, _, run_id, _ = self.path.rsplit("/", 4)
            self.server.take(run_id, json.loads(body).get("files") or {})
            return {"exitcode": None, "limits": {}}
        if self.path != "/graphql":
            return {}
        asked = json.loads(body)
        variables = asked.get("variables") or {}
        if "upsertBucket" in asked["query"]:
            return {"data": {"upsertBucket": self._bucket(variables)}}
        if "model(" in asked["query"] or "bucket(" in asked["query"]:  # whether there is such a run
            return {"data": {"model": None}}
        return {"data": None, "errors": [{"message": "not of this server"}]}

    def _bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
        run = {
            "id": "r",
            "name": variables["name"],
            "displayName": variables.get("displayName"),
            "description": "",
            "config": variables.get("config"),
            "sweepName": None,
            "project": project,
            "historyLineCount": self.server.num_lines(variables["name"]),
        }
        return {"bucket": run, "inserted": True}

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
