"""The compile explorer as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamac.inspect.explorer.lines import LineTable
from llamac.inspect.explorer.passes import hunks
from llamac.inspect.explorer.side import CompiledSpec, side_data
from llamac.look.page import ELEMENTS, page

WEB = Path(__file__).parent / "web"
SCRIPTS = (
    "base", "state", "diff", "passes", "links", "node", "drawing", "axis", "memory", "timeline",
    "traffic", "compare", "search", "main",
)  # fmt: skip
"""Names of the page's scripts in the order in which they run; later ones use earlier ones."""


def explorer_page(sides: Sequence[CompiledSpec], comparison: dict[str, Any] | None = None) -> str:
    """Return the HTML page that shows one compiled spec, or two side by side.

    comparison: difference between the plans of two specs, as JSON values; None leaves it out.
    """
    title = " and ".join(side.title for side in sides)
    body = (WEB / "explorer.html").read_text(encoding="utf-8")
    scripts = [ELEMENTS, *(WEB / f"{name}.js" for name in SCRIPTS)]
    data = explorer_data(sides, comparison)
    return page(f"{title} · llamac", body, [WEB / "explorer.css"], scripts, data)


def explorer_data(
    sides: Sequence[CompiledSpec], comparison: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the data of the explorer's page as JSON values.

    `lines` holds each distinct line of IR, Python and resolved specs once; other entries refer to
    these lines by index. `sides` has one entry per spec, and `comparison` exists only for two.

    comparison: difference between the plans of two specs, as JSON values.
    """
    lines = LineTable()
    found: dict[str, Any] = {"sides": [side_data(side, lines) for side in sides]}
    table = lines.table()
    if len(sides) == 2:
        found["comparison"] = {"plan": comparison, "texts": _texts(found["sides"], table)}
    return {"lines": table, **found}


def _texts(sides: Sequence[dict[str, Any]], table: Sequence[str]) -> list[dict[str, Any]]:
    """Return the hunks of the texts of two sides: spec, IR and Python."""
    found = []
    texts: list[list[int]]
    for title, texts in (
        ("spec, every value written out", [side["resolved"] for side in sides]),
        ("IR", [side["ir"]["lines"] for side in sides]),
        ("model.py", [side["emitted"]["lines"] for side in sides]),
    ):
        before, after = texts
        changed = hunks([table[at] for at in before], [table[at] for at in after])
        found.append({"title": title, "lines": texts, "hunks": changed})
    return found
