"""Checkpoints of LoRA adapters without the base model's frozen weights.

The state of such a checkpoint has the run's [finetune] and the hash of the base weights; the run's
init.json has their path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import durable_files
from ..errors import RunError
from . import integrity

INIT_NOTE = "init.json"
"""File of a run, or of imported adapters, that says which weights it began from."""


def require_all_weights(path: Path) -> None:
    """Raise RunError if the checkpoint at `path` has adapters but no base weights."""
    if is_adapter(path):
        raise RunError(
            f"{path} holds adapters but no model: merge them with `llamac export`, and import the "
            "result"
        )


def is_adapter(path: Path) -> bool:
    """Return whether the checkpoint at `path` has adapters but no base weights."""
    return trained_as(path).get("method") == "lora"


def trained_as(path: Path) -> dict[str, Any]:
    """Return the [finetune] with which the checkpoint at `path` was trained; empty without one."""
    return integrity.read_state(path)["curve"].get("finetune") or {}


def frozen_weights_of(path: Path) -> Path:
    """Return the checkpoint of the base weights that the adapters at `path` were trained on.

    The run's init.json has their path. Raises RunError if they are missing, damaged or differ from
    those of the training.
    """
    run, expected_sha256 = (
        path.resolve().parent.parent,
        integrity.read_state(path)["curve"]["init"],
    )
    note = durable_files.read_note(run / INIT_NOTE) or {}
    base = Path(note.get("checkpoint", run / "?"))
    where = f"the base weights of the adapters of {run}"
    if not (base / "MANIFEST.json").is_file():
        raise RunError(
            f"{where} are not at {base}, the directory named in its {INIT_NOTE}: put them back"
        )
    if durable_files.sha256_of(base / "MANIFEST.json") != expected_sha256:
        raise RunError(f"{base} is not the base of the adapters of {run}: its weights differ")
    if problem := integrity.damage(base):
        raise RunError(f"{where} are damaged: {base}: {problem}")
    return base
