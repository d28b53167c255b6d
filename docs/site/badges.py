"""Draw docs/badges/*.svg from what pyproject.toml says: python docs/site/badges.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BADGES = ROOT / "docs" / "badges"
LETTER, HEIGHT, ROOM = 6.6, 20, 7  # width of a letter at 11 px, height, room on both sides
BLUE, GREEN = "#2f5fb3", "#12703a"


def badges() -> dict[str, str]:
    """Return file name → SVG: versions of Python and torch, licence, version of llamac."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(one for one in project["dependencies"] if re.match(r"torch\b", one))
    return {
        "python.svg": badge("Python", python_versions(project["requires-python"]), BLUE),
        "torch.svg": badge("PyTorch", torch.removeprefix("torch").replace(">=", "≥ "), BLUE),
        "licence.svg": badge("licence", project["license"], GREEN),
        "version.svg": badge("version", project["version"], GREEN),
    }


def python_versions(requirement: str) -> str:
    """Return `3.11–3.13` of `>=3.11,<3.14`."""
    found = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", requirement)
    assert found, f"not such as >=3.11,<3.14: {requirement}"
    return f"3.{found[1]}–3.{int(found[2]) - 1}"


def badge(name: str, value: str, colour: str) -> str:
    left, right = (round(LETTER * len(text) + 2 * ROOM) for text in (name, value))
    width = left + right
    texts = "".join(
        f'<text x="{x + ROOM}" y="14" textLength="{size - 2 * ROOM}">{text}</text>'
        for x, size, text in ((0, left, name), (left, right, value))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" role="img" '
        f'aria-label="{name}: {value}"><title>{name}: {value}</title>'
        f'<clipPath id="c"><rect width="{width}" height="{HEIGHT}" rx="3"/></clipPath>'
        f'<g clip-path="url(#c)"><rect width="{left}" height="{HEIGHT}" fill="#1f2937"/>'
        f'<rect x="{left}" width="{right}" height="{HEIGHT}" fill="{colour}"/></g>'
        '<g fill="#ffffff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11">'
        f"{texts}</g>"
        "</svg>\n"
    )


def draw() -> None:
    BADGES.mkdir(exist_ok=True)
    for name, text in badges().items():
        (BADGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    draw()
