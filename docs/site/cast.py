"""Record commands on a terminal as docs/cast.svg, which plays them: python docs/site/cast.py.

The commands are run, in a directory of their own, whose name is left out; pauses are cut short.
The drawing needs no script: lines appear by CSS, where motion is wanted, and all are there at the
end.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.style import Style
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "cast.svg"
# Environment, command. Without escape codes, a training prints a line every few steps.
COMMANDS = (
    ({}, "llamac check tiny"),
    ({}, "llamac verify tiny"),
    ({"NO_COLOR": "1"}, "llamac train tiny --steps 40 --set eval.sample_tokens=16"),
    ({}, "llamac plan 65b"),
)
COLUMNS, ROWS = 80, 26
PAUSE, TYPING = 0.7, 1.2  # seconds: the longest pause, and before a command
CELL, LINE, EDGE = 8.0, 18.0, 16.0  # width of a letter, height of a line, border
PAPER, INK, DIM = "#14161b", "#e6e8ec", "#a2abb9"
# Number of a terminal's colour → its name and what it looks like here.
COLOURS = {
    1: ("red", "#ff8a80"),
    2: ("green", "#6fcf97"),
    3: ("yellow", "#f0b35a"),
    4: ("blue", "#8ab4f8"),
    6: ("cyan", "#5eccbf"),
}

CONSOLE = Console(width=1000)


@dataclass(frozen=True)
class Shown:
    """A line of the terminal. at: seconds after the line before it. command: it is typed."""

    text: Text
    at: float
    command: bool = False


def recorded(commands: Sequence[tuple[dict[str, str], str]], directory: Path) -> list[Shown]:
    """Run the commands on a pseudo-terminal; return its lines with their pauses."""
    found: list[Shown] = []
    for environment, command in commands:
        typed = Text.assemble((f"$ {command}", Style(color="blue", bold=True)))
        found.append(Shown(typed, TYPING, True))
        found += _output(shlex.split(command), environment, directory)
        found.append(Shown(Text(), 0.0))
    return found


def _output(command: Sequence[str], environment: dict[str, str], directory: Path) -> list[Shown]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    surroundings = os.environ | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"} | environment
    program = [sys.executable, "-m", "llamac.cli", *command[1:]]
    process = subprocess.Popen(
        program, stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings, cwd=directory
    )
    os.close(theirs)
    lines, rest, before = [], b"", time.monotonic()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        *whole, rest = (rest + part).split(b"\n")
        now = time.monotonic()
        for number, line in enumerate(whole):
            said = line.decode().rstrip("\r").replace(f"{directory}/", "")
            text = Text.from_ansi(said)
            lines.append(Shown(text, 0.0 if number else min(PAUSE, now - before)))
            before = now
    os.close(ours)
    if process.wait():
        raise SystemExit(
            f"{shlex.join(command)} failed:\n" + "\n".join(x.text.plain for x in lines)
        )
    return lines


def drawing(lines: Sequence[Shown]) -> str:
    """Return the SVG."""
    rows = [row for line in lines for row in _rows(line)]
    width, height = COLUMNS * CELL + 2 * EDGE, ROWS * LINE + 2 * EDGE
    clock, texts, scroll = 0.0, [], [(0.0, 0)]
    for number, row in enumerate(rows):
        clock += row.at
        if row.text.plain.strip():
            texts.append(_line(row.text, number, clock))
        if number >= ROWS:
            scroll.append((clock, number - ROWS + 1))
    end = clock or 1.0
    frames = "".join(
        f"{100 * at / end:.3f}%{{transform:translateY({-LINE * up:g}px)}}"
        for at, up in dict(scroll).items()
    )
    last = f"translateY({-LINE * scroll[-1][1]:g}px)"
    style = (
        f"text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"fill:{INK};white-space:pre}}"
        f".b{{font-weight:700}}.d{{fill:{DIM}}}"
        + "".join(f".{name}{{fill:{colour}}}" for name, colour in COLOURS.values())
        + f".sheet{{transform:{last}}}"
        "@media (prefers-reduced-motion:no-preference){"
        ".l{opacity:0;animation:l 1ms forwards}@keyframes l{to{opacity:1}}"
        f".sheet{{animation:s {end:.2f}s step-end forwards}}"
        f"@keyframes s{{{frames}to{{transform:{last}}}}}"
        "}"
    )
    said = "; ".join(row.text.plain[2:] for row in rows if row.command)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" aria-label="{_attribute(said)}">\n'
        f"<title>{escape(said)}</title>\n<style>{style}</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n'
        f'<svg x="{EDGE:g}" y="{EDGE:g}" width="{COLUMNS * CELL:g}" height="{ROWS * LINE:g}">'
        f'<g class="sheet">\n' + "\n".join(texts) + "\n</g></svg>\n</svg>\n"
    )


def _rows(line: Shown) -> list[Shown]:
    """Break a line as a terminal does."""
    count = max(1, -(-len(line.text) // COLUMNS))
    parts = line.text.divide([COLUMNS * n for n in range(1, count)])
    return [Shown(part, 0.0 if n else line.at, line.command) for n, part in enumerate(parts)]


def _line(text: Text, number: int, at: float) -> str:
    text = text.copy()
    text.rstrip()
    spans = []
    for part, style, _ in text.render(CONSOLE):
        classes, letters = _classes(style or Style()), escape(part)
        spans.append(f'<tspan class="{classes}">{letters}</tspan>' if classes else letters)
    return (
        f'<text class="l" style="animation-delay:{at:.2f}s" y="{LINE * number + 13:g}" '
        f'textLength="{CELL * len(text):g}" xml:space="preserve">{"".join(spans)}</text>'
    )


def _classes(style: Style) -> str:
    name, _ = COLOURS.get(style.color.number or 0, ("", "")) if style.color else ("", "")
    return " ".join(["b"] * bool(style.bold) + ["d"] * bool(style.dim) + [name] * bool(name))


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PICTURE.write_text(drawing(recorded(COMMANDS, Path(place))), encoding="utf-8")
