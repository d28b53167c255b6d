"""Serve a live report on localhost, for `llamac report --watch`."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from llamac.report.recorded_run import Run
from llamac.report.report_page import report_page
from llamac.report.summary import report

HOST = "127.0.0.1"


class LiveReport:
    """Report on runs, computed again by `latest` when one of them has changed. Thread-safe."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self._lock = runs, threading.Lock()
        self._number, self._data = 0, report(runs)

    def latest(self) -> tuple[str, dict]:
        """Return (version, report on the runs as JSON values).

        The version is a string that changes with the data and differs between servers.
        """
        with self._lock:
            changed = [run.refresh() for run in self.runs]
            if any(changed):
                self._number, self._data = self._number + 1, report(self.runs)
            return f"{id(self):x}-{self._number}", self._data


def server(runs: Sequence[Run], port: int) -> ThreadingHTTPServer:
    """Return an HTTP server for the report at 127.0.0.1, not yet serving.

    `/` is the page, and `/data.json?since=VERSION` the data, with status 204 if that version is the
    newest.

    port: 0 takes any free port. Raises OSError if the port is taken.
    """
    live = LiveReport(runs)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "llamac", ""

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            here = {f"{name}:{serving.server_port}" for name in (HOST, "localhost")}
            if self.headers.get("Host") not in here:  # a name that someone points at this machine
                self._answer(HTTPStatus.FORBIDDEN, b"", "text/plain")
                return
            version, data = live.latest()
            if url.path == "/":
                self._answer(HTTPStatus.OK, report_page(data, version).encode(), "text/html")
            elif url.path != "/data.json":
                self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
            elif parse_qs(url.query).get("since") == [version]:
                self._answer(HTTPStatus.NO_CONTENT, b"", "application/json", version)
            else:
                text = json.dumps(data, allow_nan=False).encode()
                self._answer(HTTPStatus.OK, text, "application/json", version)

        def _answer(self, code: HTTPStatus, body: bytes, kind: str, version: str = "") -> None:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            if version:
                self.send_header("ETag", version)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing for each request."""

    serving = ThreadingHTTPServer((HOST, port), Handler)
    return serving
