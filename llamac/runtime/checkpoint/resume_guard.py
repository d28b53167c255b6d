"""The settings that a loss curve depends on: a run goes on under the same ones or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError

PLANNED = ("unique_tokens",)  # keys of a source that are no part of a curve


def require_same_curve(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run under values that would bend its curve, naming each.

    Sections that `now` leaves out are not compared. Raises RunError.
    """
    old, new = _flat({section: saved.get(section) for section in now}), _flat(now)
    changed = [
        f"  {key}: {_show(old, key)} → {_show(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if key.rpartition(".")[2] not in PLANNED and old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]
    if changed:
        raise RunError(
            f"{path} was trained under other settings than these:\n"
            + "\n".join(changed)
            + "\nset them back to go on, or start a new run with --run DIR"
        )


_ABSENT = object()


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 8}} → {"model.dim": 8}, with tuples as the lists JSON makes of them."""
    if isinstance(values, Mapping) and values:
        items = [(f"{prefix}.{key}" if prefix else str(key), v) for key, v in values.items()]
    elif isinstance(values, list | tuple) and any(isinstance(v, Mapping) for v in values):
        items = [(f"{prefix}[{i}]", v) for i, v in enumerate(values)]
    else:
        return {prefix: list(values) if isinstance(values, tuple) else values}
    return {key: leaf for path, v in items for key, leaf in _flat(v, path).items()}
