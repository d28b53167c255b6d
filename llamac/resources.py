"""Shipped specs and templates, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def directory(kind: Literal["specs", "templates"]) -> Path:
    """Return a shipped directory: llamac/share/ in a wheel, the top level in a checkout."""
    packaged = _PACKAGE / "share" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def shipped_specs() -> dict[str, Path]:
    """Return every shipped spec by its bare name: `65b` → …/specs/65b.toml."""
    return {path.stem: path for path in sorted(directory("specs").glob("*.toml"))}


def find_spec(name: str, near: Path | None = None) -> Path:
    """Return the file that `name` refers to.

    It is a path relative to the directory `near` (default: the working directory) or, if no such
    file exists, a shipped spec: `tiny`, `tiny.toml` or `specs/tiny.toml`. A name of neither is
    returned as a path, on which the caller fails.
    """
    path = Path(name) if near is None else near / name
    if path.exists() and not (path.is_dir() and name in shipped_specs()):
        return path
    asked = Path(name)
    if asked.parent in (Path(), Path("specs")) and asked.suffix in ("", ".toml"):
        stem = asked.name.removesuffix(".toml")
        return shipped_specs().get(stem, path)
    return path
