"""Values that make no sense in files whose hashes are right, as someone else's program, or a
stranger, may have written them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llamac.runtime import durable_files
from llamac.runtime.checkpoint.checkpoint import checkpoint_path, steps
from llamac.runtime.checkpoint.integrity import manifest_entries

Edit = Callable[[Path], object]  # of a run directory
NONSENSE = (None, [], {}, "x", -1, True, 1.5, 10**30, [None], "../../etc/passwd", [[[]]])


def newest(run: Path) -> Path:
    return checkpoint_path(run, steps(run)[-1])


def rehash(checkpoint: Path) -> None:
    """Write the checkpoint's manifest for the files as they are."""
    names = [p for p in checkpoint.rglob("*") if p.is_file() and p.name != "MANIFEST.json"]
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest_entries(names, checkpoint)))


def state(key: str, value: Any) -> Edit:
    def edit(run: Path) -> None:
        path = newest(run) / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        rehash(path.parent)

    return edit


def tensors(name: str, change: Callable[[bytes], bytes]) -> Edit:
    def edit(run: Path) -> None:
        path = next((newest(run) / "tensors").glob(name))
        path.write_bytes(change(path.read_bytes()))
        rehash(newest(run))

    return edit


def manifest(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Of the prepared data."""

    def edit(run: Path) -> None:
        path = run / "data/manifest.json"
        value = json.loads(path.read_text())
        change(value)
        durable_files.write_note(path, value)
        (run / "data/.verified.json").unlink()

    return edit


def packing(kind: str, column: int, value: int) -> Edit:
    def edit(run: Path) -> None:
        path = next((run / "data").glob(f"*/train.packed-*.{kind}"))
        rows = np.fromfile(path, "<i8").reshape(-1, 2)
        rows[:, column] = value
        rows.tofile(path)
        durable_files.write(
            durable_files.seal_path(path), hashlib.sha256(rows.tobytes()).hexdigest().encode()
        )
        (run / "data/.verified.json").unlink()

    return edit


def record(text: str) -> Edit:
    return lambda run: (run / "MANIFEST.json").write_text(text)


def edits() -> Iterator[tuple[str, str, Edit]]:
    """Yield what each is, the file or directory that an error must name, and the edit."""
    for value in NONSENSE:
        for key in ("step", "tokens", "random", "curve", "following"):
            yield f"state.json: {key} is {value!r}", "checkpoints", state(key, value)
        for key in ("sources", "settings", "inputs", "tokenizer", "dtype"):
            of_key = manifest(lambda held, key=key, value=value: held.update({key: value}))
            yield f"data/manifest.json: {key} is {value!r}", "data/manifest.json", of_key
        for key in ("name", "share", "train", "validation", "unigrams_sha256"):
            of_source = manifest(
                lambda held, key=key, value=value: held["sources"][0].update({key: value})
            )
            yield f"data/manifest.json: a {key} is {value!r}", "data/manifest.json", of_source
        for key in ("file", "tokens", "sha256"):
            of_shard = manifest(
                lambda held, key=key, value=value: held["sources"][0]["train"]["shards"][0].update(
                    {key: value}
                )
            )
            yield f"data/manifest.json: a shard's {key} is {value!r}", "data", of_shard
        text = json.dumps({"sha256": value})
        yield f"MANIFEST.json: sha256 is {value!r}", "MANIFEST.json", record(text)
        text = json.dumps({"sha256": {"train.py": value, "runtime": "x"}, "replacing": value})
        yield f"MANIFEST.json: replacing is {value!r}", "MANIFEST.json", record(text)
    for name in (".metadata", "*.distcp"):
        yield f"{name} halved", "checkpoints", tensors(name, lambda data: data[: len(data) // 2])
        yield f"{name} zeroed", "checkpoints", tensors(name, lambda data: bytes(len(data)))
    for value in (-5, 10**12):
        yield f"pieces begin at {value}", "data/rhymes", packing("pieces", 0, value)
        yield f"sequences begin at {value}", "data/rhymes", packing("sequences", 0, value)
        yield f"labels before are {value}", "data/rhymes", packing("sequences", 1, value)
