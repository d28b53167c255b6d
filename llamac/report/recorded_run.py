"""A run directory in any state: finished, in progress, partly copied, or damaged."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamac.report.metrics_file import MetricsFile
from llamac.runtime import durable_files, events
from llamac.spec import Spec, load_spec
from llamac.spec.validation.errors import SpecError

LARGEST = 64 << 20  # greatest size in bytes of a file that is read at once
MADE_OF = ("metrics.jsonl", "spec.toml", "checkpoints")  # a run directory has one of these


class ReportError(Exception):
    """The directory cannot be reported on. The message says why and what to do."""

    exit_code = 2


class Run:
    """The contents of a run directory, read when this object is created and by `refresh`.

    Raises ReportError if `directory` is not a run directory.

    name: name of the directory. metrics: rows of metrics.jsonl.
    notes: messages about missing, damaged or superseded contents.
    spec_values: the resolved spec as parsed TOML; empty if missing or damaged.
    spec: the validated spec, or None if it is missing or invalid.
    plan, manifest: plan.json and MANIFEST.json as JSON values; empty if missing or damaged.
    events: valid lines of events.jsonl in order, each with `event` and `step`.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ReportError(f"there is no directory {directory}: name a run, such as runs/tiny")
        if not any((directory / name).exists() for name in MADE_OF):
            raise ReportError(f"{directory} is not a run: it has none of {', '.join(MADE_OF)}")
        self.directory, self.name = directory, directory.resolve().name
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self._stamps: tuple[Any, ...] = ()
        self.refresh()

    def refresh(self) -> bool:
        """Read the run again if it changed since the last call; return whether it did.

        A change is one of metrics.jsonl, spec.toml, events.jsonl or the directory `checkpoints`.
        """
        stamps = tuple(map(_stamp, (self.directory / name for name in (*MADE_OF, events.NAME))))
        if stamps == self._stamps:
            return False
        self._stamps, self.notes = stamps, list[str]()
        self._read_metrics()
        self.events = self._events()
        program = self._program()
        self.spec_values: dict[str, Any] = self._parsed_file(program / "spec.toml", _toml) or {}
        self.spec = self._spec(program / "spec.toml")
        self.plan: dict[str, Any] = self._parsed_file(program / "plan.json", _json_object) or {}
        self.manifest: dict[str, Any] = (
            self._parsed_file(program / "MANIFEST.json", _json_object) or {}
        )
        return True

    @property
    def title(self) -> str:
        """The directory's name, followed by the spec's name in parentheses if it differs."""
        own = str(self.spec_values.get("name", self.name))
        return own if own == self.name else f"{self.name} ({own})"

    @property
    def data(self) -> Path | None:
        """The run's directory of prepared data, which may not exist; None without a valid spec."""
        if self.spec is None:
            return None
        return Path(self.spec.data.directory or self.directory / "data")

    @property
    def start(self) -> dict[str, Any]:
        """The last `start` event of events.jsonl; empty if there is none."""
        return next((e for e in reversed(self.events) if e["event"] == "start"), {})

    def _read_metrics(self) -> None:
        path = self.metrics.path
        try:
            self.metrics.refresh()
        except FileNotFoundError:
            self.notes.append(
                "metrics.jsonl is missing: no step has finished yet, or the file was lost"
            )
        except OSError as error:
            self.notes.append(f"metrics.jsonl cannot be read ({error.strerror})")
        damaged, replaced = self.metrics.damaged, self.metrics.newest_rows[1]
        if damaged:
            self.notes.append(_damaged(path.name, damaged))
        if self.metrics.unfinished:
            self.notes.append("the last line of metrics.jsonl is incomplete: left out")
        if replaced:
            rows = "1 row was" if replaced == 1 else f"{replaced:,} rows were"
            self.notes.append(f"{rows} rewritten after a restart; the later ones are shown")

    def _events(self) -> list[dict[str, Any]]:
        path, found, damaged = self.directory / events.NAME, [], []
        text = self._parsed_file(path, bytes) or b""
        for number, line in enumerate(text.splitlines(), 1):
            event = _event(line)
            if event is None:
                damaged.append(number)
            else:
                found.append(event)
        if damaged:
            self.notes.append(_damaged(path.name, damaged))
        return found

    def _program(self) -> Path:
        """Return the directory of the emitted files: the run's, or that of its last start."""
        elsewhere = Path(str(self.start.get("directory") or self.directory))
        own = (self.directory / "spec.toml").exists()
        return self.directory if own or not (elsewhere / "spec.toml").exists() else elsewhere

    def _parsed_file(self, path: Path, parse: Callable[[bytes], Any]) -> Any:
        """Return a parsed file; None if it is missing or, with a note, damaged."""
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"it is larger than {LARGEST >> 20} MB")
            return parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            self.notes.append(f"{path.name} is damaged ({error}): left out")
            return None

    def _spec(self, path: Path) -> Spec | None:
        if not self.spec_values:
            return None
        try:
            return load_spec(path)
        except SpecError:
            self.notes.append(
                "spec.toml was written by another version of llamac; it is shown as it is"
            )
            return None


def _damaged(name: str, lines: list[int]) -> str:
    if len(lines) == 1:
        return f"1 damaged line in {name}, line {lines[0]:,}: left out"
    return f"{len(lines):,} damaged lines in {name}, from line {lines[0]:,} on: left out"


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        usable = type(event["event"]) is str and type(event["step"]) is int
        usable = usable and type(event.get("time", 0)) in (int, float)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return event if usable else None


def _toml(text: bytes) -> dict[str, Any]:
    return tomllib.loads(text.decode())


def _json_object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _stamp(path: Path) -> Any:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, *durable_files.stamp(path)
