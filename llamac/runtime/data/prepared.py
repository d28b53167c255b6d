"""Read, write and verify prepared data on disk.

    manifest.json                  settings, tokenizer; per source and split: documents, bytes,
                                   tokens, entropy, and each shard with its sha256
    tokenizer.model
    <source>/train-00000.bin       tokens, little-endian uint16 or uint32, without header;
    <source>/validation-00000.bin  each document ends with EOS; documents may cross shards.
                                   If any source is supervised: int32, see `kernels.padding`
    chat_template.jinja            supervised data only, if the tokenizer has one
    <source>/source.json           the source's part of the manifest, written when it is complete
    <source>/unigrams.npy          int64 [vocab_size], count of each token in train
    .prepare.lock                  locked by the process that prepares or checks the directory
    .verified.json                 files that passed verification: size, times of change, sha256

Files are written by `durable_files`, so a file that exists was complete when it appeared.
manifest.json and source.json contain a hash of themselves and those of the shards.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..durable_files import Damaged, NewFile, check_once, read_note
from ..errors import RunError, remedy
from ..kernels.padding import PADDING, toggle_loss

SPLITS = ("train", "validation")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # valid names of a source and of its directory
ANEW = "delete {0}/manifest.json and prepare the data again"  # advice in errors about damage
# Keys that every manifest has.
KEYS = ("settings", "inputs", "tokenizer", "vocab_size", "dtype", "unigram_entropy", "sources")


class PreparedDataError(RunError, ValueError):
    """A directory of prepared data is unfinished, damaged, or too small for its use."""


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """Return the manifest of a prepared directory, after checking it and the sizes of all shards.

    Raises PreparedDataError if it is missing or damaged, or a shard is missing or has another size.
    """
    root, path = Path(directory), Path(directory) / "manifest.json"
    try:
        manifest = read_manifest(root)
        shards = list(_shards(root, _require(KEYS, manifest)))
        if not manifest["sources"]:
            raise ValueError("it has no sources")
        for key in ("settings", "inputs", "tokenizer"):
            if not isinstance(manifest[key], dict):
                raise ValueError(f"its {key} is no table")
        if not isinstance(manifest["tokenizer"].get("lost", []), list):
            raise ValueError("its tokenizer.lost is no list")
        for source in manifest["sources"]:
            _require(("name", "share"), source)
            share = source["share"]
            if not NAME.fullmatch(source["name"]):
                raise ValueError(f"a source is named {source['name']!r}")
            if not (type(share) in (int, float) and 0 < share < math.inf):
                raise ValueError(f"source {source['name']!r} has share {share!r}")
            for split in SPLITS:
                _require(("documents",), source[split])
                shard_name = re.compile(
                    rf"{re.escape(source['name'])}/{split}-\d{{5,}}(-\d{{5,}})?\.bin"
                )
                # A shard outside the source's directory is neither read nor written.
                for shard in source[split]["shards"]:
                    if not shard_name.fullmatch(shard["file"]):
                        raise ValueError(f"{shard['file']!r} is no shard of {source['name']!r}")
        width = np.dtype(manifest["dtype"]).itemsize
        sizes = [(p, _require(("sha256",), shard)["tokens"] * width) for p, shard in shards]
    except PreparedDataError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PreparedDataError(
            f"{path} is not a manifest of prepared data ({why}): {ANEW.format(root)}"
        ) from error
    for file, expected in sizes:
        size = file.stat().st_size if file.exists() else -1
        if size != expected:
            what = "is missing" if size < 0 else f"has {size} bytes, not {expected}"
            raise PreparedDataError(f"{file} {what}: {ANEW.format(root)}")
    return manifest


def read_manifest(root: Path) -> dict[str, Any]:
    """Return manifest.json, checked against its own hash only; shards are not checked.

    Raises PreparedDataError if it is missing, unreadable or damaged.
    """
    path = root / "manifest.json"
    try:
        manifest = read_note(path)
    except Damaged as error:
        raise PreparedDataError(f"{error}: {ANEW.format(root)}") from error
    except OSError as error:
        raise PreparedDataError(f"{path} cannot be read: {error.strerror}") from error
    if manifest is None:
        raise PreparedDataError(f"{root} holds no prepared data (no manifest.json)")
    return manifest


def _require(keys: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` if it has all keys; raise KeyError otherwise."""
    for key in keys:
        if key not in value:
            raise KeyError(key)
    return value


def verify_prepared(directory: str | Path) -> dict[str, Any]:
    """Return the manifest after comparing the shards and the tokenizer with their hashes.

    Files unchanged since an earlier check are not read again, see `verify_once`. Raises
    PreparedDataError if a file is missing or damaged.
    """
    manifest = load_manifest(directory)
    verify_once(directory, manifest, lambda stage, done: None)
    return manifest


def verify_once(
    directory: str | Path, manifest: dict[str, Any], progress: Callable[[str, int], None]
) -> None:
    """Compare prepared files with their hashes in the manifest, unless verified before.

    Skips files unchanged since .verified.json listed them. Updates .verified.json, see
    `durable_files.check_once`. progress: called with (activity, bytes done). Raises
    PreparedDataError if a file is missing or damaged.
    """
    root = Path(directory)
    try:
        model = (root / "tokenizer.model", manifest["tokenizer"]["sha256"])
        files = [(path, shard["sha256"]) for path, shard in _shards(root, manifest)]
        counts = [
            (root / s["name"] / "unigrams.npy", s["unigrams_sha256"]) for s in manifest["sources"]
        ]
    except KeyError as error:
        path = root / "manifest.json"
        raise PreparedDataError(f"{path} lacks {error}: {ANEW.format(root)}") from error
    files += [(path, sha256) for path, sha256 in counts if path.exists()]
    note = root / ".verified.json"
    try:
        check_once([model, *files], note, lambda done: progress(f"checking {root}", done))
    except Damaged as error:
        raise PreparedDataError(f"{error}: {ANEW.format(root)}") from error


def _shards(root: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for source in manifest["sources"]:
        for split in SPLITS:
            for shard in source[split]["shards"]:
                yield root / shard["file"], shard


@contextmanager
def lock_directory(root: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Context manager that creates the directory and locks it against other processes.

    waiting: called once before waiting, if another process has locked it. The kernel releases the
    lock when a process ends. Finished data on a read-only disk is not locked, since nothing is
    written. Raises PreparedDataError if the directory cannot be created.
    """
    try:
        file = _lock(root, waiting)
    except OSError as error:
        if not (root / "manifest.json").is_file():
            raise PreparedDataError(
                f"cannot prepare data in {root} ({error.filename}: {error.strerror}): "
                f"{remedy(error)}, or set data.directory to another directory"
            ) from error
        file = None
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _lock(root: Path, waiting: Callable[[], None]) -> IO[bytes]:
    while True:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".prepare.lock").open("ab")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            # The directory, and the lock with it, may have been deleted during the wait.
            if os.path.exists(root / ".prepare.lock") and os.path.samefile(
                root / ".prepare.lock", file.fileno()
            ):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def is_signed(manifest: dict[str, Any]) -> bool:
    """Return whether shards have signed tokens, as supervised data has (`kernels.padding`)."""
    return np.dtype(manifest["dtype"]).kind == "i"


def document_end(manifest: dict[str, Any]) -> int:
    """Return the token stored at the end of each document: EOS, or PADDING in supervised data.

    manifest: the manifest of the prepared data.
    """
    return PADDING if is_signed(manifest) else manifest["tokenizer"]["eos"]


def token_ids(stored: np.ndarray) -> np.ndarray:
    """Return the ids of stored tokens, whether they have a loss or not; PADDING is unchanged.

    stored: tokens of shards, in their dtype, of any shape.
    """
    signed = stored.dtype.kind == "i"
    return np.where(stored < PADDING, toggle_loss(stored), stored) if signed else stored


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest shard dtype that represents every id: uint16 or uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass
class ShardWriter:
    """Writer of one split of one source: a stream of tokens in shards of `shard_tokens` each.

    path: path of the shards, without "-00000.bin". dtype: dtype of the stored tokens. documents,
    bytes: number of documents added, and their text's bytes. shards: manifest entries of the
    finished shards.
    """

    path: Path
    dtype: np.dtype
    shard_tokens: int
    documents: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    _file: NewFile | None = None
    _tokens: int = 0

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Append a document.

        tokens: from `PrepareJob.stored`, integers [n]. text_bytes: size of its text in UTF-8.
        """
        self.documents += 1
        self.bytes += text_bytes
        while len(tokens):
            head = tokens[: self.shard_tokens - self._tokens]
            self._write(head.astype(self.dtype).tobytes())
            self._tokens += len(head)
            tokens = tokens[len(head) :]
            if self._tokens == self.shard_tokens:
                self._finish_shard()

    def close(self) -> dict[str, Any]:
        """Finish the last shard; return the split's part of the manifest."""
        if self._file is not None:
            self._finish_shard()
        tokens = sum(shard["tokens"] for shard in self.shards)
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": tokens,
            "bytes_per_token": self.bytes / tokens if tokens else None,
            "shards": self.shards,
        }

    def _write(self, data: bytes) -> None:
        if self._file is None:
            name = f"{self.path.name}-{len(self.shards):05}.bin"
            self._file = NewFile(self.path.with_name(name))
        self._file.write(data)

    def _finish_shard(self) -> None:
        assert self._file is not None
        path, sha256 = self._file.path, self._file.commit()
        name = f"{path.parent.name}/{path.name}"
        self.shards.append({"file": name, "tokens": self._tokens, "sha256": sha256})
        self._file, self._tokens = None, 0


def clear_source_directory(directory: Path) -> None:
    """Create a source's directory, or delete what a preparation has written to it.

    Other files are kept, since users may keep their texts there.
    """
    directory.mkdir(exist_ok=True)
    packed = r"\.packed-\d+-[0-9a-f]{12}\.(pieces|sequences)(\.sha256)?"
    written = re.compile(
        rf"\.?((train|validation)(-\d{{5}}\.bin|{packed})|unigrams\.npy|source\.json)(\.tmp)?"
    )
    for path in directory.iterdir():
        if written.fullmatch(path.name):
            path.unlink()
