"""Prepared data on disk: its layout, how it is written, and how it is checked.

    manifest.json                  settings, tokenizer, per source and split: documents, bytes,
                                   tokens, entropy, and each shard with its sha256
    tokenizer.model
    <source>/train-00000.bin       tokens, little-endian uint16 or uint32, nothing else;
    <source>/validation-00000.bin  each document ends with EOS; documents may cross shards
    <source>/source.json           this source's part of the manifest, written when it is whole
    <source>/unigrams.npy          int64 [vocab_size], how often each token occurs in train
    .prepare.lock                  locked by the process that prepares or checks the directory
    .verified.json                 the shards found whole: size, time of change, sha256

Every file is written aside, flushed to disk and renamed, so a file that is there is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import RunError
from .tokenizer import Tokenizer

SPLITS = ("train", "validation")
KEYS = ("settings", "inputs", "tokenizer", "vocab_size", "dtype", "unigram_entropy", "sources")


class PreparedDataError(RunError, ValueError):
    """A directory of prepared data that is unfinished, damaged, or too small for its use."""


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a prepared directory, with every shard checked to be there in full size."""
    root, path = Path(directory), Path(directory) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        shards = list(_shards(root, _require(KEYS, manifest)))
        for source in manifest["sources"]:
            _require(("name", "share"), source)
            for split in SPLITS:
                _require(("documents",), source[split])
        width = np.dtype(manifest["dtype"]).itemsize
        sizes = [(p, _require(("sha256",), shard)["tokens"] * width) for p, shard in shards]
    except FileNotFoundError as error:
        raise PreparedDataError(f"{root} holds no prepared data (no manifest.json)") from error
    except OSError as error:
        raise PreparedDataError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else "it is damaged"
        raise PreparedDataError(
            f"{path} is not a manifest of prepared data ({why}): delete {root} and prepare the "
            "data again"
        ) from error
    for file, expected in sizes:
        size = file.stat().st_size if file.exists() else -1
        if size != expected:
            what = "is missing" if size < 0 else f"has {size} bytes, not {expected}"
            raise PreparedDataError(f"{file} {what}: delete {root} and prepare the data again")
    return manifest


def _require(keys: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    """The object, if it has these keys; KeyError otherwise."""
    for key in keys:
        if key not in value:
            raise KeyError(key)
    return value


def verify(directory: str | Path) -> dict[str, Any]:
    """`load_manifest`, with every shard and the tokenizer read and compared with their hashes."""
    root, manifest = Path(directory), load_manifest(directory)
    for path, shard in _shards(root, manifest):
        _check_hash(root, path, shard["sha256"])
    model = root / "tokenizer.model"
    if Tokenizer.load(model).pieces_sha256 != manifest["tokenizer"]["pieces_sha256"]:
        raise PreparedDataError(f"{model} is not the tokenizer these shards were made with")
    return manifest


def verify_once(
    directory: str | Path, manifest: dict[str, Any], progress: Callable[[str, int], None]
) -> None:
    """Compares each shard with its sha256, unless it was found whole before and has had the same
    size and time of change since. Raises PreparedDataError at a damaged one.

    It costs one reading of the new or changed shards, about a second per gigabyte, and later one
    `stat` per shard. Where .verified.json cannot be written, every call reads everything.
    """
    root, note = Path(directory), Path(directory) / ".verified.json"
    before, done = read_json(note), 0
    now = dict(before)
    try:
        for path, shard in _shards(root, manifest):
            status = path.stat()  # before reading: a change meanwhile will be seen next time
            stamp = [status.st_size, status.st_mtime_ns, shard["sha256"]]
            if before.get(shard["file"]) != stamp:
                progress(f"checking {root}", done)
                _check_hash(root, path, shard["sha256"])
                done += status.st_size
            now[shard["file"]] = stamp
    finally:  # what was found whole needs no second look, however this ends
        if now != before:
            with suppress(OSError):
                write_json(note, now)


def _check_hash(root: Path, path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PreparedDataError(f"{path} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise PreparedDataError(
            f"{path} is damaged: it does not have the checksum it was written with; delete {root} "
            "and prepare the data again"
        )


def _shards(root: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for source in manifest["sources"]:
        for split in SPLITS:
            for shard in source[split]["shards"]:
                yield root / shard["file"], shard


@contextmanager
def alone(root: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Makes the directory and holds its lock, after calling `waiting` if another process has it.

    The kernel frees the lock of a process that dies. Finished data on a read-only disk needs no
    lock, as nothing will be written. Raises PreparedDataError if there cannot be a directory.
    """
    try:
        file = _lock(root, waiting)
    except OSError as error:
        if not (root / "manifest.json").is_file():
            raise PreparedDataError(
                f"cannot prepare data in {root} ({error.strerror}): set data.directory to a "
                "directory that can be written and locked"
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
            # While this waited, someone may have deleted the directory, and the lock with it.
            if os.path.exists(root / ".prepare.lock") and os.path.samefile(
                root / ".prepare.lock", file.fileno()
            ):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of the two shard types that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass
class ShardWriter:
    """Writes one split of one source: a stream of tokens, cut into shards of equal size."""

    path: Path  # of the shards, without "-00000.bin"
    dtype: np.dtype
    shard_tokens: int
    documents: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _digest: Any = None
    _tokens: int = 0

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Appends a document: its tokens with their EOS, and the bytes of its text."""
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
        """Finishes the last shard and returns the split's part of the manifest."""
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
            self._file, self._digest = _aside(self.path).open("wb"), hashlib.sha256()
        self._file.write(data)
        self._digest.update(data)

    def _finish_shard(self) -> None:
        assert self._file is not None
        target = self.path.with_name(f"{self.path.name}-{len(self.shards):05}.bin")
        _settle(self._file)
        os.replace(_aside(self.path), target)
        self.shards.append(
            {
                "file": f"{target.parent.name}/{target.name}",
                "tokens": self._tokens,
                "sha256": self._digest.hexdigest(),
            }
        )
        self._file, self._tokens = None, 0


def clear(directory: Path) -> None:
    """Makes a source's directory and removes an unfinished preparation from it; nothing else, as
    someone may keep their texts there too."""
    directory.mkdir(exist_ok=True)
    packed = r"\.packed-\d+-[0-9a-f]{12}\.(pieces|sequences)(\.tmp)?"
    ours = re.compile(
        rf"(train|validation)(-\d{{5}}\.bin|\.tmp|{packed})|(unigrams\.npy|source\.json)(\.tmp)?"
    )
    for path in directory.iterdir():
        if ours.fullmatch(path.name):
            path.unlink()


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name once all of it is on the disk; on an error, never."""
    file = _aside(path).open("wb")
    try:
        yield file
        _settle(file)
    except BaseException:
        file.close()
        _aside(path).unlink(missing_ok=True)
        raise
    os.replace(_aside(path), path)


def write_bytes(path: Path, data: bytes) -> None:
    with whole(path) as file:
        file.write(data)


def write_array(path: Path, array: np.ndarray) -> None:
    with whole(path) as file:
        np.save(file, array)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or an empty one if there is no whole file that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _settle(file: IO[bytes]) -> None:
    """Closes a file once its bytes are on the disk: a rename may otherwise outrun them."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
