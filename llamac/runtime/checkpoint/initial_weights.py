"""Start a run from existing weights: those of an import, of another run, or of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import durable_files
from ..distributed.ranks import Ranks
from ..errors import RunError
from ..tokenizers.chat_template import CHAT_TEMPLATE
from . import checkpoint, dcp, integrity, load_run
from .adapters import (
    INIT_NOTE,
    find_base_weights,
    finetune_settings,
    is_adapter,
    require_all_weights,
)
from .model_directory import model_note, read_spec
from .same_settings import changed_keys

CHANGEABLE_KEYS = (
    "init_std",
    "norm_eps",
    "rope_theta",
    "rope_scaling",
    "sliding_window",
    "multiple_of",
)
"""Keys of [model] that may differ from the source's, because the weights' shapes stay the same."""


def find_initial(
    source: str,
    model: Mapping[str, Any],
    run: Path,
    log: checkpoint.Log,
    ranks: Ranks,
    finetune: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Find the initial weights, record their origin in the run's init.json, and return the record.

    All ranks call this; rank 0 works for all. Also copies the source's chat template to the run.

    Args:
        source: directory of an import, of a run (its newest undamaged checkpoint is used) or of a
            checkpoint.
        model: the run's [model] section.
        run: directory of the run.
        log: receives messages, on rank 0.
        ranks: all ranks of the run.
        finetune: the run's [finetune] section, if it trains adapters. The source may then hold
            adapters too, which training continues.

    Returns:
        The contents of init.json. Among them: `checkpoint`, the path of the weights;
        `weights_sha256`, the hash of its MANIFEST.json, which covers every weight; `adapters` and
        `adapters_sha256`, the same for adapters, or None.

    Raises:
        RunError: the source is missing or damaged, or has another [model] or other adapters.
    """
    return ranks.on_first(lambda: _find(Path(source).expanduser(), model, finetune, run, log))


def resolve_source(source: Path, log: checkpoint.Log) -> tuple[Path, Path]:
    """Return (undamaged checkpoint, directory of its run or import).

    source: a checkpoint, or a run or import, whose newest undamaged checkpoint is used. log:
    receives messages on damaged ones. Raises RunError if there is none.
    """
    if (source / "MANIFEST.json").is_file() and (source / "tensors").is_dir():
        if problem := integrity.damage(source):
            raise RunError(f"init.from: {source} cannot be used: {problem}")
        return source, source.parent.parent
    return load_run.choose_checkpoint(source, "newest", log), source


def _find(
    source: Path,
    model: Mapping[str, Any],
    finetune: Mapping[str, Any] | None,
    run: Path,
    log: checkpoint.Log,
) -> dict[str, Any]:
    if not source.is_dir():
        raise RunError(f"init.from: {source} does not exist")
    path, home = resolve_source(source, log)
    _require_same_model(path, model)
    adapters = None
    if finetune and is_adapter(path):
        _require_same_adapters(path, finetune)
        log(f"adapters: from {path}")
        adapters, path = path, find_base_weights(path)
    require_all_weights(path)
    known = model_note(home)
    length = 0 if known else _sequence_length(home)
    note = {
        "checkpoint": str(path.resolve()),
        "weights_sha256": durable_files.sha256_of(path / "MANIFEST.json"),
        "adapters": adapters and str(adapters.resolve()),
        "adapters_sha256": adapters and durable_files.sha256_of(adapters / "MANIFEST.json"),
        "title": known.get("title") or home.resolve().name,
        "context": known.get("context", length),
        "end": known.get("end", []),
        "generation": known.get("generation", {}),
    }
    if (home / CHAT_TEMPLATE).is_file():
        durable_files.write(run / CHAT_TEMPLATE, (home / CHAT_TEMPLATE).read_bytes())
    log(f"weights: from {path}, sha256 {note['weights_sha256'][:16]}…")
    return durable_files.write_note(run / INIT_NOTE, note)


def _sequence_length(home: Path) -> int:
    try:
        return read_spec(home)["batch"]["sequence_length"]
    except (RunError, KeyError, TypeError):  # a checkpoint may be anywhere, without a run around it
        return 0


def _require_same_model(path: Path, model: Mapping[str, Any]) -> None:
    try:
        saved = integrity.read_state(path)["curve"].get("model", {})
    except (OSError, ValueError) as error:
        raise RunError(f"init.from: {path} cannot be used: {error}") from error
    differ = [
        f"  model.{key}: {json.dumps(saved.get(key))} there, {json.dumps(model.get(key))} here"
        for key in changed_keys(saved, model)
        if key not in CHANGEABLE_KEYS
    ]
    if differ:
        raise RunError(
            f"{path} holds weights of a model that differs from this spec's:\n" + "\n".join(differ)
        )


def _require_same_adapters(path: Path, finetune: Mapping[str, Any]) -> None:
    saved = finetune_settings(path)
    differ = [
        f"  finetune.{key}: {json.dumps(saved.get(key))} there, "
        f"{json.dumps(finetune.get(key))} here"
        for key in ("rank", "alpha", "targets")
        if _unordered(saved.get(key)) != _unordered(finetune.get(key))
    ]
    if differ:
        raise RunError(f"{path} holds other adapters than this spec's:\n" + "\n".join(differ))


def _unordered(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def load_adapters(note: Mapping[str, Any], weights: dcp.Parts, ranks: Ranks) -> None:
    """Load this rank's parts of the initial adapters in place, if the run begins from any.

    All ranks call this. note: from `find_initial`. weights: canonical name → this rank's part of an
    adapter matrix. Raises RunError if they cannot be read.
    """
    if note["adapters"]:
        checkpoint.load(Path(note["adapters"]), {"model": weights}, ranks)


def load_initial(note: Mapping[str, Any], weights: dcp.Parts, ranks: Ranks) -> None:
    """Load this rank's parts of the initial weights in place.

    All ranks call this. note: from `find_initial`. weights: canonical name → this rank's part.
    Raises RunError if they cannot be read.
    """
    checkpoint.load(Path(note["checkpoint"]), {"model": weights}, ranks)
