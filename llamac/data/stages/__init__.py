"""Cleaning stages, one module each, named as in a spec.

A module's `build(stage)` returns the object that judges documents. If the outcome depends on more
than the spec, such as a model file, its `facts(stage)` returns these dependencies. Both read the
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

    at: the source's name and the stage's number in it, where they are known.
    """

    at: tuple[str, int] | None = None


def build(stage: Any, source: Any = None) -> Filter | Survey:
    """Build the stage that a section of `spec.stages` describes; errors name `source`.

    Filters and surveys can be built anew in each process. Raises StageError.
    """
    try:
        return _module(stage).build(stage)
    except StageError as error:
        raise _of(stage, source, error) from None


def facts(stage: Any, source: Any = None) -> dict[str, Any]:
    """Return JSON values that a stage's outcome depends on beyond the spec. Raises StageError.

    They are hashes of model files and versions of engines; when they change, the data must be
    prepared again.
    """
    module = _module(stage)
    try:
        return module.facts(stage) if hasattr(module, "facts") else {}
    except StageError as error:
        raise _of(stage, source, error) from None


def _module(stage: Any) -> ModuleType:
    return importlib.import_module(f"{__name__}.{stage.stage}")


def _of(stage: Any, source: Any, error: StageError) -> StageError:
    if source is None:
        return StageError(f"{stage.stage}: {error}")
    named_error = StageError(f"{source.name}: {stage.stage}: {error}")
    named_error.at = (source.name, source.stage.index(stage)) if stage in source.stage else None
    return named_error
