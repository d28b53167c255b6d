"""The choices that a spec's models allow, for tests that draw among all of them."""

from __future__ import annotations

from typing import get_args

from llamac.spec.model import Model
from llamac.spec.section import Section


def options(key: str, section: type[Section] = Model) -> tuple[str, ...]:
    """Return the literals that a key of a section allows."""
    return get_args(section.model_fields[key].annotation)
