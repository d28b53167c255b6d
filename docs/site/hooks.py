"""MkDocs hooks: make the site of the Markdown that also reads well in a repository browser.

README, CONTRIBUTING, SECURITY and CHANGELOG join the site as pages, and links to them follow. Links
to other files of the repository become plain text. The path after a fence's language becomes its
title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
TITLED = re.compile(r"^```(\w+) (\S+)$", re.M)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = text.replace("](docs/", "](")
        text = re.sub(r"\]\((README|CONTRIBUTING|SECURITY|CHANGELOG)\.md", r"](../\1.md", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return the page with links and code blocks as MkDocs reads them."""
    return TITLED.sub(r'```\1 title="\2"', LINK.sub(_link, markdown))


def _link(match: re.Match[str]) -> str:
    text, target, anchor = match.groups()
    if not target.startswith("../"):
        return match[0]
    page = OUTSIDE.get(target.removeprefix("../"))
    return f"[{text}]({page}{anchor or ''})" if page else text
