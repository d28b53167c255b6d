"""Self-contained HTML pages: theme, styles, data and scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ELEMENTS = HERE / "elements.js"
"""Script with functions that create elements; a page that uses them includes it first."""
# The browser refuses all resources outside the page; 'self' is the server of a live page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'"
)


def page(
    title: str,
    body: str,
    styles: Iterable[Path] = (),
    scripts: Iterable[Path] = (),
    data: Any = None,
) -> str:
    """Return a whole HTML page as text.

    title: plain text. body: HTML. styles, scripts: files that are copied into the page, after the
    theme's own. data: a JSON value, which scripts read from the element with the id `data`; the
    element is left out if the value is empty.
    A button with the id `theme` in the body switches between light and dark.
    """
    css = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "theme.css", *styles))
    head = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{css}</style>",
        _script(HERE / "theme.js"),
        "</head>\n<body>",
    ]
    tail = [f'<script type="application/json" id="data">{embedded(data)}</script>'] if data else []
    tail += [_script(path) for path in scripts]
    return "\n".join([*head, body.rstrip(), *tail, "</body>\n</html>\n"])


def embedded(value: Any) -> str:
    """Return a JSON value as text that is safe inside an HTML script element.

    Raises ValueError for NaN and infinities, which JSON.parse does not accept.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _script(path: Path) -> str:
    return f"<script>\n{path.read_text(encoding='utf-8')}</script>"
