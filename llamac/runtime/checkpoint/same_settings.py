"""Check that a run resumes with the same settings that determine its loss curve.

The settings are `SETTINGS` of the emitted train.py (`templates/train.py.j2`).

`llamac train` compares specs before it rebuilds a run (`emit/run_directory.py`); changed text is
refused by `data/token_shards.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..train.lr_schedule import learning_rate

PLANNED = ("unique_tokens",)  # keys of a source that do not affect the loss curve
# Sections that a new run from another run's checkpoint may change.
BRANCHED = ("optimizer", "precision", "schedule")


def require_same_settings(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    path: Path,
    step: int = 0,
    run: Path | None = None,
) -> str:
    """Raise RunError if settings that determine the loss curve changed, naming each.

    Only the schedule may become longer. A `run` that starts from another run's checkpoint may
    change the settings in `BRANCHED`. Returns a message on permitted differences and their effect
    after `step` updates, or "". Sections missing from `now` are not compared.
    """
    old, new = _flat({section: saved.get(section) for section in now}), _flat(now)
    raised = _is_raised(old, new)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if key.rpartition(".")[2] not in PLANNED and differs(old.get(key), new.get(key))
        if not (raised and key == STEPS)
    ]
    lines = [f"  {key}: {_show(old, key)} → {_show(new, key)}" for key in changed]
    branches = run is not None and path.resolve().parent != (run / "checkpoints").resolve()
    if changed and branches and all(key.partition(".")[0] in BRANCHED for key in changed):
        return "\n".join([f"a new run from {path}, with changed settings:", *lines])
    if changed:
        raise RunError(
            f"{path} was trained with other settings:\n"
            + "\n".join(lines)
            + "\nchange them back to resume, or start a new run with "
            "-o DIR (train.py: --run DIR)"
        )
    return _longer(saved["schedule"], now["schedule"], step) if raised else ""


def differs(old: Any, new: Any) -> bool:
    """Return whether a setting changed; None and a disabled setting are equal.

    So checkpoints saved before a setting existed resume as long as it is disabled.
    """
    return (None if old is False else old) != (None if new is False else new)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys of a section whose settings changed, as `differs` says."""
    return [key for key in sorted({*old, *new}) if differs(old.get(key), new.get(key))]


STEPS = "schedule.steps"


def _is_raised(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    before, after = old.get(STEPS), new.get(STEPS)
    return isinstance(before, int) and isinstance(after, int) and after > before


def _longer(old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> str:
    """Return a message on the effect of a longer schedule after `step` updates, or ""."""
    said = f"schedule: {new['steps']:,} steps, raised from {old['steps']:,}"
    followed, there = (_rate(one, step) for one in (old, new))
    if not step or math.isclose(followed, there, rel_tol=1e-9):
        return said
    said += (
        f". The {new['kind']} schedule is stretched: at step {step:,} the learning rate becomes "
        f"{there:.3g} and was {followed:.3g}, so the loss curve differs from that of "
        f"{new['steps']:,} steps from the start"
    )
    if new["kind"] == "wsd":
        said += "; to match it, resume from a checkpoint before the decay: --resume PATH"
    return said


def _rate(schedule: Mapping[str, Any], step: int) -> float:
    """Return the learning rate of update number `step`, the last one applied."""
    shape = {key: value for key, value in schedule.items() if key != "steps"}
    return learning_rate(step - 1, total_steps=schedule["steps"], **shape)


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten {"model": {"dim": 8}} to {"model.dim": 8}, turning tuples into lists as JSON does."""
    if isinstance(values, Mapping) and values:
        items = [(f"{prefix}.{key}" if prefix else str(key), v) for key, v in values.items()]
    elif isinstance(values, list | tuple) and any(isinstance(v, Mapping) for v in values):
        items = [(f"{prefix}[{i}]", v) for i, v in enumerate(values)]
    else:
        return {prefix: list(values) if isinstance(values, tuple) else values}
    return {key: leaf for path, v in items for key, leaf in _flat(v, path).items()}
