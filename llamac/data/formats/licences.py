"""Under which licence a file of a source tree is: SPDX identifiers, from what the tree says.

A file's own SPDX line counts most, then Debian's machine-readable copyright file (DEP-5), then the
LICENSE file nearest above it.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

TAG_WITHIN = 5000  # characters from the top in which a file names its own licence

_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+()\- \t]{2,200})")
_LICENCE_FILE = re.compile(r"(?:un)?licen[cs]e|copying|(?:mit|apache|bsd)-licen[cs]e", re.I)
_DEP5 = re.compile(r"^Format:[^\n]*(?:copyright-format|dep5|dep-5)", re.I | re.M)
_DEBIAN_FILES = ("debian/copyright", "copyright")
_INSTALLED = re.compile(r"usr/share/doc/[^/]+/copyright")

# What the text of a licence says and others do not; of several that fit, the first.
_TEXTS = tuple(
    (name, re.compile(pattern, re.I))
    for name, pattern in (
        ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE"),
        ("LGPL-3.0", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3"),
        ("LGPL-2.1", r"GNU (?:LESSER|LIBRARY) GENERAL PUBLIC LICENSE"),
        ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
        ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE"),
        ("MPL-2.0", r"Mozilla Public License,?\s+v(?:ersion|\.)\s*2"),
        ("EPL-2.0", r"Eclipse Public License"),
        ("Apache-2.0", r"Apache License,?\s+Version 2\.0"),
        ("BSL-1.0", r"Boost Software License"),
        ("CC0-1.0", r"CC0 1\.0 Universal"),
        ("Unlicense", r"free and unencumbered software released into the public domain"),
        (
            "BSD-3-Clause",
            r"Redistribution and use in source and binary forms[\s\S]{0,3000}Neither the name",
        ),
        ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
        ("ISC", r"Permission to use, copy, modify, and(?:/or)? distribute this software"),
        ("MIT", r"Permission is hereby granted, free of charge, to any person"),
    )
)
# Debian's names of them.
_DEBIAN = (
    (re.compile(r"\b(?:expat|mit/expat)\b", re.I), "MIT"),
    (re.compile(r"\bbsd-?([234])-?clause\b", re.I), r"BSD-\1-Clause"),
    (re.compile(r"\b(A?GPL|LGPL)-([123](?:\.\d)?)(?:\.0)?\+", re.I), r"\1-\2-or-later"),
    (re.compile(r"\b(?:ASL|Apache)-2(?:\.0)?\b", re.I), "Apache-2.0"),
    (re.compile(r"\s+and/or\s+|\s+or\s+|\s*\|\s*", re.I), " OR "),
    (re.compile(r",?\s+and\s+|,\s+", re.I), " AND "),
)


@dataclass(frozen=True, slots=True)
class Licences:
    """globs: DEP-5's, compiled, relative to root. folders: directory → what its file says."""

    root: str
    globs: tuple[tuple[re.Pattern[str], str], ...]
    folders: dict[str, str]

    def of(self, name: str, text: str) -> str | None:
        """The licence of the file of that path, or None where nothing says."""
        if tag := _TAG.search(text, 0, TAG_WITHIN):
            return tag[1].strip()
        inner = name.removeprefix(self.root)
        for pattern, licence in reversed(self.globs):  # DEP-5: the last that matches
            if pattern.fullmatch(inner):
                return licence
        folder = posixpath.dirname(name)
        while folder not in self.folders:
            if not folder:
                return None
            folder = posixpath.dirname(folder)
        return self.folders[folder]


def is_licence(name: str) -> bool:
    """Whether a file of that name may say something of licences."""
    base = posixpath.basename(name)
    return base == "copyright" or _LICENCE_FILE.match(base) is not None


def licences(said: dict[str, str], names: Iterable[str] = ()) -> Licences:
    """said: the texts of a tree's licence files, by path. names: of all its files, by which the
    sources' root is found where a Debian package is installed away from its copyright file."""
    globs: tuple[tuple[re.Pattern[str], str], ...] = ()
    folders: dict[str, list[str]] = {}
    root = ""
    for name in sorted(said):
        if posixpath.basename(name) != "copyright":
            if licence := recognised(said[name]):
                folders.setdefault(posixpath.dirname(name), []).append(licence)
        elif _DEP5.search(said[name], 0, 2000):
            if _INSTALLED.fullmatch(name):
                sources = [name for name in names if not name.startswith("usr/share/doc/")]
                shared = posixpath.commonpath(map(posixpath.dirname, sources)) if sources else ""
                root, globs = f"{shared}/" if shared else "", dep5(said[name])
            elif name.endswith(_DEBIAN_FILES) and not globs:
                root, globs = (
                    name.removesuffix("copyright").removesuffix("debian/"),
                    dep5(said[name]),
                )
    # Rust's LICENSE-MIT beside LICENSE-APACHE: the user may choose.
    joined = {folder: " OR ".join(dict.fromkeys(found)) for folder, found in folders.items()}
    return Licences(root, globs, joined)


def recognised(text: str) -> str | None:
    """The SPDX identifier of a licence's text."""
    head = text[:20_000]
    if tag := _TAG.search(head):
        return tag[1].strip()
    return next((name for name, pattern in _TEXTS if pattern.search(head)), None)


def dep5(text: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """(glob, licence) of each `Files` paragraph, in order."""
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields: dict[str, str] = {}
        last = ""
        for line in paragraph.split("\n"):
            if line[:1] in (" ", "\t"):
                fields[last] = fields.get(last, "") + "\n" + line.strip()
            else:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        licence = fields.get("license", "").partition("\n")[0].strip()
        if licence:
            found += [(_glob(glob), spdx(licence)) for glob in fields.get("files", "").split()]
    return tuple(found)


def _glob(glob: str) -> re.Pattern[str]:
    """DEP-5: `*` and `?` match slashes too, a backslash takes a sign literally."""
    signs = re.findall(r"\\.|.", glob.removeprefix("./"), re.S)
    plain = (
        sign if sign in "*?" else f"[{sign[-1]}]" if sign[-1] in "*?[" else sign[-1]
        for sign in signs
    )
    return re.compile(fnmatch.translate("".join(plain)))


def spdx(licence: str) -> str:
    """Debian's short name of a licence, or of several, as SPDX has it."""
    for pattern, replacement in _DEBIAN:
        licence = pattern.sub(replacement, licence)
    return licence
