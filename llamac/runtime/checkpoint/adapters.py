"""Checkpoints of LoRA adapters, which do not contain the base model's frozen weights.

The state of such a checkpoint records the run's [finetune] section and the hash of the base
weights; the run's init.json records their path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import durable_files
from ..errors import RunError
from . import integrity

INIT_NOTE = "init.json"
"""File of a run, or of imported adapters, that records which weights it began from."""


def require_all_weights(path: Path) -> None:
    """Raise RunError if the checkpoint at `path` holds LoRA adapters without their base weights.

    Raises OSError or ValueError if its state cannot be read.
    """
    if is_adapter(path):
        raise RunError(
            f"{path} holds adapters but no model: merge them with `llamac export`, and import the "
            "result"
        )


def is_adapter(path: Path) -> bool:
    """Return whether the checkpoint at `path` holds LoRA adapters without their base weights.

    Raises OSError or ValueError if its state cannot be read.
    """
    return finetune_settings(path).get("method") == "lora"


def finetune_settings(path: Path) -> dict[str, Any]:
    """Return the [finetune] section of the run that saved the checkpoint at `path`; {} without one.

    Raises OSError or ValueError if the checkpoint's state cannot be read.
    """
    return integrity.read_state(path)["curve"].get("finetune") or {}


def find_base_weights(path: Path) -> Path:
    """Return the path of the base weights' checkpoint for the adapters' checkpoint at `path`.

    The init.json of the adapters' run names it. Verifies all of its checksums. Raises RunError if
    it is missing or damaged, or if the adapters were trained on other weights.
    """
    run = path.resolve().parent.parent
    expected_sha256 = integrity.read_state(path)["curve"]["init"]
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
