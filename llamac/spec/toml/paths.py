"""Make relative paths of a spec absolute, starting from the directory of the file they are in.

Paths inherited by `extends` stay relative to the base spec. Paths of `--set` and of the shipped
specs are relative to the working directory.
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


def with_whole_paths(section: S, document: TomlDocument, at: Path = ()) -> S:
    """Return a section with its paths made absolute.

    document: the document that the section was read from. at: the section's path in it.
    """
    changes = {}
    for key, value in section:
        path = (*at, key)
        new: Any = value
        if isinstance(value, Section):
            new = with_whole_paths(value, document, path)
        elif section.is_file(key) and isinstance(value, str):
            new = _whole(value, _root(document, path))
        elif key in section.GLOBS:
            new = tuple(
                _whole(pattern, _root(document, (*path, index)), wildcards=True)
                for index, pattern in enumerate(value)
            )
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            new = tuple(
                with_whole_paths(entry, document, (*path, index))
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


def _whole(path: str, root: FilePath | None, wildcards: bool = False) -> str:
    if root is None or _ABSOLUTE.match(path):
        return path
    start = glob.escape(str(root)) if wildcards else str(root)
    return os.path.normpath(os.path.join(start, path))
