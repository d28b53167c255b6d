"""Make relative paths in a spec absolute, based on the directory of the file that sets them.

Paths inherited by `extends` are relative to the base spec. Paths set by `--set` or by a shipped
spec are relative to the working directory.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path as FilePath
from typing import Any, TypeVar

from llamac.spec.section import Section
from llamac.spec.toml.toml_document import TomlDocument
from llamac.spec.validation.errors import Path

S = TypeVar("S", bound=Section)

_ABSOLUTE = re.compile(r"/|~|[A-Za-z][A-Za-z0-9+.-]+://")


def with_absolute_paths(section: S, document: TomlDocument, at: Path = ()) -> S:
    """Return a section with all relative paths in it and its subsections made absolute.

    URLs and paths that begin with `~` stay as they are. The section itself is not changed.

    document: the document from which the section was read. at: the section's path in the document.
    """
    changes = {}
    for key, value in section:
        path = (*at, key)
        new: Any = value
        if isinstance(value, Section):
            new = with_absolute_paths(value, document, path)
        elif section.is_file(key) and isinstance(value, str):
            new = _absolute(value, _root(document, path))
        elif key in section.GLOBS:
            new = tuple(
                _absolute(pattern, _root(document, (*path, index)), wildcards=True)
                for index, pattern in enumerate(value)
            )
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            new = tuple(
                with_absolute_paths(entry, document, (*path, index))
                for index, entry in enumerate(value)
            )
        if new is not value and new != value:
            changes[key] = new
    if not changes:
        return section
    copy = section.model_copy()  # defaults are shared between specs
    vars(copy).update(changes)
    return copy


def _root(document: TomlDocument, path: Path) -> FilePath | None:
    """Return the directory to which a path value (or default) at `path` is relative."""
    return document.roots.get(document.place(path).value.file)


def _absolute(path: str, root: FilePath | None, wildcards: bool = False) -> str:
    if root is None or _ABSOLUTE.match(path):
        return path
    start = glob.escape(str(root)) if wildcards else str(root)
    return os.path.normpath(os.path.join(start, path))
