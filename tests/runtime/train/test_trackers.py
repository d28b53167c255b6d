"""Trackers take every row, and nothing that happens to them reaches the run."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from llamac.runtime.train import trackers
from llamac.runtime.train.metrics import Metrics

from .test_metrics import row

ONLINE = ["wandb", "trackio"]


class Service:
    """A package with wandb's interface, which keeps what it is given."""

    def __init__(self, key: str | None = "key") -> None:
        self.api = SimpleNamespace(api_key=key)
        self.options: dict[str, Any] = {}
        self.rows: list[tuple[dict, int]] = []
        self.finished = False

    def init(self, **options: Any) -> Service:
        self.options = options
        return self

    def log(self, row: dict, step: int) -> None:
        self.rows.append((row, step))

    def finish(self) -> None:
        self.finished = True


def run_with(monkeypatch, tmp_path, name: str, service: Any, resumed: int = 0) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, name, service)
    tracker: dict[str, Any] = {name: "my-project"}
    with Metrics(tmp_path, resumed, {"device": "cpu"}, **tracker) as metrics:
        metrics.write(row(resumed + 1, validation_loss=float("nan")))
        metrics.write(row(resumed + 2))


@pytest.mark.parametrize("name", ONLINE)
def test_every_row_arrives_under_its_step(monkeypatch, tmp_path, name, capsys):
    service = Service()
    run_with(monkeypatch, tmp_path, name, service)
    assert [step for _, step in service.rows] == [1, 2]
    assert service.rows[1][0] == row(2)
    assert "validation_loss" not in service.rows[0][0]  # JSON has no NaN, nor have services
    assert service.finished
    assert service.options["project"] == "my-project"
    assert service.options["name"] == tmp_path.name
    assert service.options["config"]["device"] == "cpu"
    assert capsys.readouterr().out == ""


def test_a_run_that_resumes_is_the_same_one_there(monkeypatch, tmp_path):
    first, second, anew = Service(), Service(), Service()
    run_with(monkeypatch, tmp_path, "wandb", first)
    run_with(monkeypatch, tmp_path, "wandb", second, resumed=2)
    run_with(monkeypatch, tmp_path, "wandb", anew)
    assert first.options["id"] == second.options["id"] != anew.options["id"]
    assert second.options["resume"] == "allow"


def test_who_has_not_logged_in_is_not_asked_to(monkeypatch, tmp_path, capsys):
    service = Service(key=None)
    run_with(monkeypatch, tmp_path, "wandb", service)
    assert service.options["mode"] == "offline"
    assert "wandb sync" in capsys.readouterr().out


class Failing(Service):
    """A service that raises at one of its calls, of whatever kind."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()

        def fail(*_: Any, **__: Any) -> None:
            raise error

        setattr(self, at, fail)


@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("at", ["init", "log", "finish"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), SystemExit(1), ValueError("no")])
def test_a_service_that_fails_is_said_once_and_ends_no_run(
    monkeypatch, tmp_path, capsys, name, at, error
):
    run_with(monkeypatch, tmp_path, name, Failing(at, error))
    assert capsys.readouterr().out.count(f"{name} does not work here") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ONLINE)
def test_a_missing_package_is_said_and_ends_no_run(monkeypatch, tmp_path, capsys, name):
    run_with(monkeypatch, tmp_path, name, None)  # what import machinery takes for missing
    assert f"{name} does not work here" in capsys.readouterr().out


def test_a_service_that_does_not_answer_holds_up_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers, "PATIENCE", 0.1)
    service, answered = Service(), threading.Event()
    monkeypatch.setattr(service, "init", lambda **_: answered.wait(20))
    run_with(monkeypatch, tmp_path, "wandb", service)
    assert "wandb did not accept all rows" in capsys.readouterr().out
    answered.set()
