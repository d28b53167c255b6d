"""Checkpoints that hold adapters alone: their run's frozen weights stay where they were.

The state of such a checkpoint has the [finetune] it was trained under, and the hash of the frozen
weights; the run's init.json says where these lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import durable_files
from ..errors import RunError
from . import checkpoint

INIT_NOTE = "init.json"
"""File of a run, or of imported adapters, that says which weights it began from."""


def require_all_weights(path: Path) -> None:
    """Raise RunError if the checkpoint at `path` holds adapters alone."""
    if is_adapter(path):
        raise RunError(
            f"{path} holds adapters but no model: merge them with `llamac export`, and import the "
            "result"
        )


def is_adapter(path: Path) -> bool:
    """Return whether the checkpoint at `path` holds adapters beside which the rest is frozen."""
    return trained_as(path).get("method") == "lora"


def trained_as(path: Path) -> dict[str, Any]:
    """Return the [finetune] that the checkpoint at `path` was trained under; empty for none."""
    return checkpoint.read_state(path)["curve"].get("finetune") or {}


def frozen_weights_of(path: Path) -> Path:
    """Return the checkpoint of the frozen weights beside which adapters at `path` were trained.

    The run's init.json says where they are. Raises RunError if they are not there any more, are
    others, or are damaged.
    """
    run, wanted = path.resolve().parent.parent, checkpoint.read_state(path)["curve"]["init"]
    note = durable_files.read_note(run / INIT_NOTE) or {}
    base = Path(note.get("checkpoint", run / "?"))
    where = f"the base weights of the adapters of {run}"
    if not (base / "MANIFEST.json").is_file():
        raise RunError(
            f"{where} are not at {base}, the directory named in its {INIT_NOTE}: put them back"
        )
    if durable_files.sha256_of(base / "MANIFEST.json") != wanted:
        raise RunError(f"{base} is not the base of the adapters of {run}: its weights differ")
    if problem := checkpoint.damage(base):
        raise RunError(f"{where} are damaged: {base}: {problem}")
    return base
