"""Check that a run resumes with the settings that determine its loss curve unchanged.

The settings are `SETTINGS` of the emitted train.py (`templates/train.py.j2`). `llamac train` also
compares specs before it rebuilds a run (`emit/run_directory.py`), and `data/token_shards.py`
compares the training text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..train.lr_schedule import learning_rate

IGNORED_KEYS = ("unique_tokens",)
"""Keys of a source that do not affect the loss curve, and are not compared."""

BRANCH_SECTIONS = ("optimizer", "precision", "schedule")
"""Sections that a new run from another run's checkpoint may change."""


def require_same_settings(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    path: Path,
    step: int = 0,
    run: Path | None = None,
) -> str:
    """Raise RunError that lists each changed setting, if any change is not permitted.

    `schedule.steps` may increase, and a new run from another run's checkpoint may change anything
    in `BRANCH_SECTIONS`.

    Args:
        saved: settings stored in the checkpoint.
        now: settings of this run; sections missing here are not compared.
        path: the checkpoint.
        step: updates applied so far, to state the effect on the learning rate; 0 omits it.
        run: directory of this run; None permits no new run from another one's checkpoint.

    Returns:
        A message on permitted changes and their effect, or "".
    """
    old, new = _flat({section: saved.get(section) for section in now}), _flat(now)
    longer = _has_more_steps(old, new)
    changed = [
        key
        for key in sorted(old.keys() | new.keys())
        if key.rpartition(".")[2] not in IGNORED_KEYS and differs(old.get(key), new.get(key))
        if not (longer and key == STEPS)
    ]
    lines = [f"  {key}: {_show(old, key)} → {_show(new, key)}" for key in changed]
    branches = run is not None and path.resolve().parent != (run / "checkpoints").resolve()
    if changed and branches and all(key.partition(".")[0] in BRANCH_SECTIONS for key in changed):
        return "\n".join([f"a new run from {path}, with changed settings:", *lines])
    if changed:
        raise RunError(
            f"{path} was trained with other settings:\n"
            + "\n".join(lines)
            + "\nchange them back to resume, or start a new run with "
            "-o DIR (train.py: --run DIR)"
        )
    return _describe_longer(saved["schedule"], now["schedule"], step) if longer else ""


def differs(old: Any, new: Any) -> bool:
    """Return whether a setting changed from `old` to `new`; None and False count as equal.

    Checkpoints saved before a setting existed can therefore be resumed while it is disabled.
    """
    return (None if old is False else old) != (None if new is False else new)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the sorted keys of a section whose settings changed, according to `differs`."""
    return [key for key in sorted({*old, *new}) if differs(old.get(key), new.get(key))]


STEPS = "schedule.steps"
"""Key of the one setting that a run may increase when it resumes."""


def _has_more_steps(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    before, after = old.get(STEPS), new.get(STEPS)
    return isinstance(before, int) and isinstance(after, int) and after > before


def _describe_longer(old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> str:
    """Return a message on the effect of a longer schedule after `step` updates."""
    message = f"schedule: {new['steps']:,} steps, raised from {old['steps']:,}"
    old_rate, new_rate = (_rate(schedule, step) for schedule in (old, new))
    if not step or math.isclose(old_rate, new_rate, rel_tol=1e-9):
        return message
    message += (
        f". The {new['kind']} schedule is stretched: at step {step:,} the learning rate becomes "
        f"{new_rate:.3g} and was {old_rate:.3g}, so the loss curve differs from that of "
        f"{new['steps']:,} steps from the start"
    )
    if new["kind"] == "wsd":
        message += "; to match it, resume from a checkpoint before the decay: --resume PATH"
    return message


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
