"""The report as a self-contained HTML page, which `report.js` builds in the browser."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from llamac.look.page import ELEMENTS, page

HERE = Path(__file__).parent
STYLES = (HERE / "report.css",)
SCRIPTS = (ELEMENTS, *(HERE / name for name in ("chart.js", "details.js", "report.js")))


def report_page(data: Mapping[str, Any], version: str | None = None) -> str:
    """Return the HTML page of a report on runs.

    data: the result of `llamac.report.summary.report`.
    version: version of the data, for a page that asks its server for newer ones; None for a file.
    """
    names = [run["title"] for run in data["runs"]]
    body = f'<div id="page"><noscript>{_without_script(data)}</noscript></div>'
    if version is None:
        return page(" · ".join(names), body, STYLES, SCRIPTS, data)
    body += f'<i id="live" data-version="{escape(version)}" hidden></i>'
    return page(" · ".join(names), body, STYLES, (*SCRIPTS, HERE / "live.js"), data)


def _without_script(data: Mapping[str, Any]) -> str:
    """Return the last numbers of each run as HTML, for browsers without scripts."""
    rows = []
    for run in data["runs"]:
        last = run["summary"].get("last", {})
        values = ", ".join(f"{name} {value}" for name, value in last.items())
        rows.append(f"<h1>{escape(run['title'])}</h1><p>{escape(values or 'no step yet')}</p>")
    return "".join(rows)
