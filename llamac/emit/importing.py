"""Import emitted modules from their text."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

# The emitted directory's own modules.
EMITTED_MODULES = ("model", "whole_model", "inference", "generate", "train", "runtime")


@contextmanager
def import_emitted(files: Mapping[str, str], name: str = "model") -> Iterator[Any]:
    """Context manager that yields an emitted module, imported together with its `runtime` package.

    On exit, modules of the same names that were imported before are put back into `sys.modules`.
    The emitted module remains usable, except for imports that it makes later.

    files: text of the emitted files by relative path. name: name of the module to import.
    """
    with TemporaryDirectory(prefix="llamac-emitted-") as directory:
        for file, text in files.items():
            path = Path(directory, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        previous = _take_modules()
        sys.path.insert(0, directory)
        importlib.invalidate_caches()
        try:
            yield importlib.import_module(name)
        finally:
            sys.path.remove(directory)
            _take_modules()
            sys.modules.update(previous)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in EMITTED_MODULES]
    return {name: sys.modules.pop(name) for name in names}
