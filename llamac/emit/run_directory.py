"""Update the emitted files of a run directory, provided that its run can continue with them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamac.emit.build import MANIFEST, BuildError, MakePlan, files_of, write_directory
from llamac.passes.pass_list import stages
from llamac.runtime.checkpoint.checkpoint import run_lock
from llamac.runtime.checkpoint.same_settings import IGNORED_KEYS, differs
from llamac.runtime.errors import RunError
from llamac.spec import Spec

# Spec values that determine the loss curve, as in the emitted train.py's SETTINGS.
SETTINGS = ("seed", "model", "tokenizer", "data", "batch", "precision", "optimizer", "schedule")
# Values in these sections that do not affect the curve.
NOT_CURVE = ("data.directory", "optimizer.max_skipped_steps")
LENGTH = ("schedule.steps", "schedule.tokens")  # may be raised; the trainer reports the effect


def update_run_directory(
    run: Path, spec: Spec, overwrite: bool = False, make_plan: MakePlan | None = None
) -> list[str]:
    """Write the files emitted for `spec` into a run directory.

    Returns one message for each edited informational file, which was renamed. overwrite: replace
    edited source files. make_plan: as for `files_of`.

    Raises BuildError and changes nothing if a trainer is running there, or if the checkpoints were
    made with other values of the settings that determine the loss curve; also as
    `write_directory` does, for example if a source file was edited.
    """
    files = files_of(spec, stages(spec), make_plan)
    if not (run / MANIFEST).is_file():
        return write_directory(run, files, overwrite)
    try:
        with run_lock(run):
            _refuse_another_curve(run, files["spec.toml"], overwrite)
            return write_directory(run, files, overwrite)
    except RunError as error:
        raise BuildError(str(error)) from None


def _refuse_another_curve(run: Path, text: str, overwrite: bool) -> None:
    old_spec = run / "spec.toml"
    if not old_spec.is_file() or not any(run.glob("checkpoints/step-*")):
        return
    try:
        old, new = tomllib.loads(old_spec.read_text(encoding="utf-8")), tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        if overwrite:  # the trainer compares again, with the values stored in its checkpoint
            return
        raise BuildError(
            f"{old_spec} is damaged ({error}): replace it with --overwrite, or choose another "
            "directory with -o"
        ) from None
    before, after = dict(_values(old)), dict(_values(new))
    longer = _tokens(new) >= _tokens(old)
    changed = [
        f"{key} was {before.get(key, 'not set')!r}, is {after.get(key, 'not set')!r}"
        for key in sorted({*before, *after})
        if differs(before.get(key), after.get(key)) and not (key in LENGTH and longer)
    ]
    if changed:
        raise BuildError(
            f"{run} was trained with other values: {'; '.join(changed)}. A run resumes only "
            "with the same values: restore them, or start another run with -o"
        )


def _tokens(spec: dict[str, Any]) -> int:
    """Return the number of training tokens of a resolved spec."""
    schedule, batch = spec["schedule"], spec["batch"]
    if "tokens" in schedule:
        return schedule["tokens"]
    a_step = batch.get("tokens") or batch["sequences"] * batch["sequence_length"]
    return schedule["steps"] * a_step


def _values(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of the settings that determine the loss curve."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if not prefix and key not in SETTINGS:
            continue
        if isinstance(value, dict):
            yield from _values(value, f"{name}.")
        elif name == "data.source":
            drawn = [{k: v for k, v in one.items() if k not in IGNORED_KEYS} for one in value]
            yield name, drawn
        elif name not in NOT_CURVE:
            yield name, value
