"""Determine the licence of each file in a source tree, as an SPDX expression.

Precedence: the file's own SPDX tag; Debian's machine-readable copyright file (DEP-5); the licence
files of the nearest folder above it that has some. If those cannot be recognised, the licence is
unknown: folders further above do not count.
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamac.data.formats.licences.dep5 import dep5, is_dep5
from llamac.data.formats.licences.licence_texts import (
    identify_licence,
    join_expressions,
    mentions_copyleft,
    tag_of,
)

COPYLEFT = "LicenseRef-copyleft-notice"  # for a file whose own header mentions a copyleft licence

_ID = (
    r"(?:mit|expat|x11|isc|zlib|boost|bsl|unlicen[cs]e|cc0|bsd|apache|asl|mpl|[al]?gpl|lesser|lib)"
    r"(?:[-_.]?v?\d[\d._]*)?(?:[-_]clause)?"
)
_WORDS = (
    r"(?:un)?licen[cs]es?|copying|lizenz|licencia|licenza|licen[çc]a|licentie|licencja|лицензия|"
    r"许可证|许可协议|ライセンス"
)
_LICENCE_FILE = re.compile(
    rf"(?:{_ID}[-_.])?(?:{_WORDS})(?:[-_.]?v?\d[\d._]*)?(?:[-_.](?P<id>{_ID}))?"
    r"(?:\.(?:txt|md|markdown|rst|html?|asc|adoc))?",
    re.I,
)
_MANIFESTS = ("Cargo.toml", "pyproject.toml", "package.json", "composer.json")
_DEBIAN_FILES = ("debian/copyright", "copyright")
_INSTALLED = re.compile(r"usr/share/doc/[^/]+/copyright")
_OF_COPYLEFT = re.compile(r"GPL|MPL")
_CHOICE = re.compile(r"\b(?:either|at your (?:option|choice)|your choice)\b", re.I)
_POINTER_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Licences:
    """Licence declarations of a source tree.

    root: folder that globs are relative to, with a final slash; "" for the tree's own root.
    globs: compiled DEP-5 globs with their licences. folders: texts of licence files and manifests,
    by folder and name. cache: SPDX expressions of folders already determined; None if unknown.
    """

    root: str
    globs: tuple[tuple[re.Pattern[str], str], ...]
    folders: dict[str, dict[str, str]]
    cache: dict[str, str | None] = field(default_factory=dict)

    def licence_of(self, name: str, text: str) -> str | None:
        """Return the SPDX expression of the file at path `name` with content `text`, or None.

        Raises SourceError if licenseclassifier is not installed.
        """
        if tag := tag_of(text):
            return tag
        inner = name.removeprefix(self.root)
        for pattern, licence in reversed(self.globs):  # DEP-5: the last matching paragraph wins
            if pattern.fullmatch(inner):
                return licence
        folder = posixpath.dirname(name)
        while folder not in self.folders:
            if not folder:
                return None
            folder = posixpath.dirname(folder)
        if folder not in self.cache:
            self.cache[folder] = _folder_licence(self.folders[folder])
        licence = self.cache[folder]
        if licence and mentions_copyleft(text) and not _OF_COPYLEFT.search(licence):
            return join_expressions([licence, COPYLEFT])
        return licence


def is_licence(name: str) -> bool:
    """Return whether a file of that name is a licence file of its folder."""
    base = posixpath.basename(name)
    return base == "copyright" or _is_licence_file(base)


def is_manifest(name: str) -> bool:
    """Return whether a file of that name is a package manifest that may declare a licence."""
    return posixpath.basename(name) in _MANIFESTS


def _is_licence_file(base: str) -> bool:
    return _LICENCE_FILE.fullmatch(base) is not None


def licences(texts: dict[str, str], names: Iterable[str] = ()) -> Licences:
    """Collect the licence declarations of a source tree.

    texts: contents of its licence files and manifests, by path. names: paths of its other files,
    which locate the sources of an installed Debian package (`usr/share/doc/*/copyright`).
    """
    globs: tuple[tuple[re.Pattern[str], str], ...] = ()
    folders: dict[str, dict[str, str]] = {}
    root = ""
    for name in sorted(texts):
        folder, base = posixpath.split(name)
        if base != "copyright":
            folders.setdefault(folder, {})[base] = texts[name]
        elif is_dep5(texts[name]):
            if _INSTALLED.fullmatch(name):
                sources = [name for name in names if not name.startswith("usr/share/doc/")]
                shared = posixpath.commonpath(map(posixpath.dirname, sources)) if sources else ""
                root, globs = f"{shared}/" if shared else "", dep5(texts[name])
            elif name.endswith(_DEBIAN_FILES) and not globs:
                root, globs = (
                    name.removesuffix("copyright").removesuffix("debian/"),
                    dep5(texts[name]),
                )
    with_licence = {name: files for name, files in folders.items() if any(map(is_licence, files))}
    return Licences(root, globs, with_licence)


def _folder_licence(texts: Mapping[str, str]) -> str | None:
    """Return the joint expression of one folder's licence files; None if one is unknown.

    All of them apply, unless the folder declares a choice.
    """
    files = {base: text for base, text in texts.items() if _is_licence_file(base)}
    for base, text in files.items():
        others = [other for other in files if other != base and other in text]
        if len(others) > 1 and len(text) < _POINTER_CHARS and _CHOICE.search(text):
            files, choice = {other: files[other] for other in others}, True
            break
    else:
        choice = False
    identified = {base: identify_licence(text) for base, text in files.items()}
    if None in identified.values():
        return None
    expressions = [expression for expression in identified.values() if expression]
    names = set(expressions)
    # Rust's LICENSE-MIT beside LICENSE-APACHE.
    rust = names == {"MIT", "Apache-2.0"} and all(
        match and match["id"] for match in map(_LICENCE_FILE.fullmatch, files)
    )
    if choice or rust:
        return " OR ".join(dict.fromkeys(expressions))
    for base in _MANIFESTS:
        declared = _declared(base, texts.get(base, ""))
        if " OR " in declared and set(map(_base, names)) <= set(
            map(_base, re.split(r"[\s()]+", declared))
        ):
            return declared
    return join_expressions(expressions)


def _base(identifier: str) -> str:
    return re.sub(r"(?:\+|-only|-or-later)$", "", identifier)


def _declared(base: str, text: str) -> str:
    """Return the licence expression of a package manifest, or ""."""
    try:
        data: Any = (tomllib if base.endswith(".toml") else json).loads(text)
        for section in ("package", "project"):
            data = data.get(section, data) if base.endswith(".toml") else data
        value = data.get("license") or data.get("licenses") or ""
        values = value if isinstance(value, list) else [value]
        names = [item.get("type", "") if isinstance(item, dict) else str(item) for item in values]
        return " OR ".join(names).replace("/", " OR ")
    except (ValueError, AttributeError, RecursionError):
        return ""
