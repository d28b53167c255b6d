"""What is printed of documents and samples does not steer the terminal."""

from __future__ import annotations

import sys

import pytest

from llamac.runtime import machine
from llamac.runtime.terminal import escaped
from llamac.runtime.train.metrics import Display

HOSTILE = "a\x1b]0;title\x07\x1b[31m\x9b2J\x08\r\x7f\u202eb\n\tc 世界 👩\u200d👧 é\u00a0\ud800"
SHOWN = (
    r"a\x1b]0;title\x07\x1b[31m\x9b2J\x08\r\x7f\u202eb"
    "\n\tc 世界 👩\u200d👧 é\u00a0"
    r"\ud800"
)


def test_control_characters_are_escaped_and_text_stays() -> None:
    assert escaped(HOSTILE) == SHOWN
    assert escaped(SHOWN) == SHOWN
    controls = [chr(i) for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t"]
    assert not set("".join(map(escaped, controls))) & set(controls)


def test_pieces_of_a_sample_are_escaped_one_by_one() -> None:
    assert "".join(map(escaped, HOSTILE)) == SHOWN


class Terminal:
    """Standard output that is a terminal, and what it was given."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...
    def isatty(self) -> bool:
        return True


def test_a_trainer_says_samples_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.log(HOSTILE)
    assert capsys.readouterr().out == SHOWN + "\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    display = Display(0, 10, 1)
    display.log("sample: " + HOSTILE)
    assert "sample: a\\x1b]0;title" in terminal.text
    assert "\x1b]0;" not in terminal.text
    assert "\x07" not in terminal.text
