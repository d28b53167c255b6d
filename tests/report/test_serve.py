"""`llamac report --watch`: to this machine alone, and only what is new."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest

from llamac.report.recorded_run import Run
from llamac.report.serve import server

from .conftest import MakeRun, lines, metrics_rows


@pytest.fixture
def served(make_run: MakeRun) -> Iterator[tuple[Run, int]]:
    run = Run(make_run("run", metrics_rows(10)))
    with server([run], 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield run, serving.server_port
        serving.shutdown()
        thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_page_and_what_is_new(served):
    run, port = served
    answer, page = get(port, "/")
    assert answer.status == 200
    assert 'id="live"' in page
    answer, text = get(port, "/data.json?since=other")
    version = answer.getheader("ETag")
    assert json.loads(text)["runs"][0]["state"]["step"] == 10
    assert get(port, f"/data.json?since={version}")[0].status == 204
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write(lines(metrics_rows(12)[10:]))
    answer, text = get(port, f"/data.json?since={version}")
    assert json.loads(text)["runs"][0]["state"]["step"] == 12
    assert answer.getheader("ETag") != version


@pytest.mark.parametrize("path", ["/metrics.jsonl", "/../spec.toml", "/page.html"])
def test_nothing_else_is_served(served, path):
    assert get(served[1], path)[0].status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8065", "127.0.0.1"])
def test_other_names_for_this_machine_are_refused(served, host):
    """A page of another site may have its own name point here, and read the answer."""
    assert get(served[1], "/data.json", host)[0].status == 403
