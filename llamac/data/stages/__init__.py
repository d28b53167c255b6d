"""Cleaning stages, one module each, named as in a spec.

A module's `build(stage)` returns the `Filter` or `Survey`. If its result depends on more than the
spec, such as a model file, the module's `facts(stage)` returns these dependencies. Both read the
files they need.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from llamac.data.document import Filter, Survey
from llamac.runtime.errors import RunError


class StageError(RunError, ValueError):
    """A stage cannot run: a file or package that it needs is missing or unusable.

    at: (name of the source, index of the stage in it), or None if unknown.
    """

    at: tuple[str, int] | None = None


def build(stage: Any, source: Any = None) -> Filter | Survey:
    """Build the filter or survey of a stage from its section of the spec.

    source: the stage's source, named in errors; None if unknown. Raises StageError if a file or
    package is missing or unusable.
    """
    try:
        return _module(stage).build(stage)
    except StageError as error:
        raise _with_place(stage, source, error) from None


def facts(stage: Any, source: Any = None) -> dict[str, Any]:
    """Return what a stage's result depends on besides the spec, as JSON values by name.

    These are hashes of model files and versions of libraries; if one changes, the data must be
    prepared again. source: named in errors; None if unknown. Raises StageError if a file or package
    is missing.
    """
    module = _module(stage)
    try:
        return module.facts(stage) if hasattr(module, "facts") else {}
    except StageError as error:
        raise _with_place(stage, source, error) from None


def _module(stage: Any) -> ModuleType:
    return importlib.import_module(f"{__name__}.{stage.stage}")


def _with_place(stage: Any, source: Any, error: StageError) -> StageError:
    """Return the error with its source and stage named."""
    if source is None:
        return StageError(f"{stage.stage}: {error}")
    named_error = StageError(f"{source.name}: {stage.stage}: {error}")
    named_error.at = (source.name, source.stage.index(stage)) if stage in source.stage else None
    return named_error
