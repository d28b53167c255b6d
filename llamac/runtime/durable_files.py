"""Durable files: written atomically, hashed while written, and verified before use.

A file that affects training has a sha256 from when it was written, which is verified before the
first use. The hash is in a manifest, in a file NAME.sha256 beside it (a seal), or, for a JSON
object, in the object itself (a note, see `write_note`). Files written only for people are atomic
too, but not verified, and a failure to write them never ends a run.

Every write goes to .NAME.tmp in the same directory, is flushed to disk, and is renamed, so a file
with its final name was complete when it appeared. Symbolic links are not followed at either name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import RunError

READERS = 4  # files hashed at a time: hashing releases the GIL
BLOCK = 1 << 20
LARGE = 1 << 22  # bytes of a write from which hashing runs in a thread beside it


class Damaged(RunError, ValueError):
    """A file is missing, unreadable, different from what was written, or in fact a directory."""


class NewFile:
    """A file being written under a temporary name, and hashed.

    `commit` renames it to its final name `path`, and `discard` removes it. resume: (number of
    bytes, their sha256) that an earlier process wrote and flushed; writing continues after them,
    and later bytes are cut off. size: bytes so far. Raises Damaged if they are missing or differ.
    """

    def __init__(self, path: Path, resume: tuple[int, str] | None = None) -> None:
        self.path, self.size, self._digest = path, 0, hashlib.sha256()
        self._hasher: ThreadPoolExecutor | None = None
        self._beside = path.with_name(f".{path.name[:100]}.tmp")
        if resume:
            self._file = self._resumed(*resume)
        else:
            self._beside.unlink(missing_ok=True)
            self._file = open(self._beside, "xb")  # noqa: SIM115

    def _resumed(self, size: int, sha256: str) -> Any:
        # It was committed, but not recorded as such.
        if not self._beside.exists() and self.path.exists():
            os.replace(self.path, self._beside)
        try:
            file = os.fdopen(os.open(self._beside, os.O_RDWR | os.O_NOFOLLOW), "r+b")
        except FileNotFoundError as error:
            raise Damaged(f"{self.path} is missing") from error
        for begin in range(0, size, BLOCK):
            self._digest.update(file.read(min(BLOCK, size - begin)))
        if self._digest.hexdigest() != sha256:
            file.close()
            raise Damaged(f"{self.path} is damaged: its content has changed since it was written")
        file.truncate(size)
        file.seek(size)
        self.size = size
        return file

    @property
    def sha256(self) -> str:
        """Return the sha256 of all bytes written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: Any) -> int:
        """Append bytes, or any object with a contiguous buffer; return the number of bytes."""
        view = memoryview(data).cast("B") if memoryview(data).nbytes else b""
        if len(view) < LARGE:
            self._digest.update(view)
            self._file.write(view)
        else:  # neither needs the interpreter
            self._hasher = self._hasher or ThreadPoolExecutor(1)
            hashed = self._hasher.submit(self._digest.update, view)
            self._file.write(view)
            hashed.result()
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.size

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        """Pass buffered bytes to the kernel, as torch.save does after each tensor."""
        self._file.flush()

    def sync(self) -> None:
        """Flush all bytes to disk (fsync), so that a later rename is not durable before them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def commit(self, sealed: bool = False, mode: int | None = None) -> str:
        """Flush to disk, rename to the final name, and return the sha256 in hex.

        sealed: also write the hash to NAME.sha256. mode: permission bits; None for the default.
        """
        self._end_hashing()
        self.sync()
        if mode is not None:
            os.fchmod(self._file.fileno(), mode)
        self._file.close()
        if sealed:
            write(seal_path(self.path), f"{self.sha256}\n".encode())
        _name(self._beside, self.path)
        return self.sha256

    def _end_hashing(self) -> None:
        if self._hasher is not None:
            self._hasher.shutdown()
            self._hasher = None

    def discard(self) -> None:
        """Close and delete the temporary file."""
        self._end_hashing()
        with suppress(OSError):  # closing writes buffered bytes, which a full disk refuses
            self._file.close()
        self._beside.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, sealed: bool = False, mode: int | None = None) -> Iterator[NewFile]:
    """Context manager that yields a new file, committed at the end, or discarded after an error.

    path: its final name. sealed, mode: as in `NewFile.commit`.
    """
    file = NewFile(path)
    try:
        yield file
        file.commit(sealed, mode)
    except BaseException:
        file.discard()
        raise


def write(path: Path, data: bytes, sealed: bool = False, mode: int | None = None) -> str:
    """Write a file atomically; return its sha256 in hex. sealed, mode: as in `NewFile.commit`."""
    with atomic_write(path, sealed, mode) as file:
        file.write(data)
    return file.sha256


def write_array(path: Path, array: Any) -> str:
    """Write a NumPy array as a .npy file atomically; return the file's sha256 in hex."""
    import numpy as np

    with atomic_write(path) as file:
        np.save(file, array)  # type: ignore[arg-type]
    return file.sha256


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in UTF-8, atomically."""
    write(path, (_json(value, indent=1) + "\n").encode())


def write_note(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Write a JSON object with its own hash under "sha256" atomically; return it with the hash."""
    value = {key: item for key, item in value.items() if key != "sha256"}
    noted = value | {"sha256": fingerprint(value)}
    write_json(path, noted)
    return noted


def read_note(path: Path) -> dict[str, Any] | None:
    """Return an object written by `write_note`, with its hash; None if there is no such file.

    Raises Damaged if it does not match its hash, OSError if it cannot be read.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path} is damaged: it is not a JSON object")
    if value.get("sha256") != fingerprint({k: v for k, v in value.items() if k != "sha256"}):
        raise Damaged(f"{path} is damaged: it does not match its checksum")
    return value


def read_note_or_empty(path: Path) -> dict[str, Any]:
    """Return an object written by `write_note`, or {} if it is missing, unreadable or damaged."""
    try:
        return read_note(path) or {}
    except (OSError, Damaged):
        return {}


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises OSError if it cannot be read, ValueError if it is not JSON or nested too deeply.
    """
    try:
        return json.loads(read_bytes(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def fingerprint(value: Any) -> str:
    """Return the sha256 of a JSON value in hex, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # file names may not be UTF-8; surrogates keep them
        return json.dumps(value, indent=indent)
    return text


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raise OSError for a directory, a device or a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file in hex. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Iterable[Path]) -> list[str]:
    """Return the sha256 of each file in hex, in order. Raises OSError as `open_regular` does."""
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(sha256_of, paths))


def seal_path(path: Path) -> Path:
    """Return the path of the seal of a file: NAME.sha256 beside it."""
    return path.with_name(path.name + ".sha256")


def commit_file(temporary: Path, path: Path) -> None:
    """Seal the file `temporary` that other code wrote, flush it, and rename it to `path`."""
    write(seal_path(path), f"{sha256_of(temporary)}\n".encode())
    flush(temporary)
    _name(temporary, path)


def _name(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except IsADirectoryError as error:
        raise Damaged(f"{path} is a directory but must be a file: remove it") from error
    flush(path.parent)


def is_undamaged(path: Path, sha256: str | None = None) -> bool:
    """Return whether a file exists and matches its hash. sha256: as in `check`."""
    try:
        return bool(check(path, sha256))
    except Damaged:
        return False


def check(path: Path, sha256: str | None = None) -> Path:
    """Verify a file's hash; return its path. Raises Damaged if it differs or cannot be read.

    sha256: the expected hash in hex; None for the one in the file's seal. A file is read once per
    process, unless its `stamp` changes.
    """
    try:
        actual = _hash_now(path, *stamp(path))
    except OSError as error:
        raise Damaged(f"{path} {_unread(error)}") from error
    if actual != (sha256 or read_seal(path)):
        raise Damaged(f"{path} is damaged: it does not match its checksum")
    return path


def read_seal(path: Path) -> str:
    """Return the sha256, in hex, in the seal of a file. Raises Damaged without a valid seal."""
    seal = seal_path(path)
    try:
        text = read_bytes(seal).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise Damaged(f"{seal}, the checksum of {path.name}, {_unread(error)}") from error
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise Damaged(f"{seal} is damaged: it has no checksum of {path.name}")
    return text


def _unread(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError)
    return "is missing" if missing else f"cannot be read ({error.strerror or error})"


@lru_cache(maxsize=1 << 16)
def _hash_now(path: Path, size: int, modified: int, changed: int) -> str:
    return sha256_of(path)


def stamp(path: Path) -> tuple[int, int, int]:
    """Return (size in bytes, mtime in ns, ctime in ns) of a file, to detect later changes."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_once(
    files: Iterable[tuple[Path, str]], note: Path, progress: Callable[[int], None]
) -> None:
    """Verify files against their hashes, except those verified earlier with the same `stamp`.

    files: (path, sha256) of each. note: file in which stamps of verified files are stored; if it
    cannot be written, every call reads all files. progress: called with the total of bytes read,
    after each file read. Raises Damaged for the first file, in order, that is missing or differs.
    The first verification takes a second per gigabyte and core, a later one a `stat` per file.
    """
    known = _stamps(note)
    now, done = dict(known), 0

    def verify(file: tuple[Path, str]) -> tuple[str, list[Any], int]:
        path, sha256 = file
        try:
            # Taken before reading, so that a change during it is noticed next time.
            entry = [*stamp(path), sha256]
        except OSError as error:
            raise Damaged(f"{path} {_unread(error)}") from error
        name = os.path.relpath(path, note.parent)
        if known.get(name) == entry:
            return name, entry, 0
        check(path, sha256)
        return name, entry, entry[0]

    try:
        with ThreadPoolExecutor(READERS) as readers:
            for name, entry, size in readers.map(verify, files):
                now[name] = entry
                if size:
                    done += size
                    progress(done)
    finally:  # keep the stamps of verified files even after an error
        if now != known:
            with suppress(OSError, Damaged):
                write_json(note, now)


def _stamps(note: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        if isinstance(value := read_json(note), dict):
            return value
    return {}


def flush(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def path_within(root: Path, name: str) -> Path:
    """Return root / name; raise RunError if a symbolic link in it leads out of `root`.

    A run thus writes and deletes only within its own directory.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise RunError(
            f"{path} is a symbolic link that leads out of {root}: remove the link; to use another "
            "disk, put the whole run there, or set data.directory"
        )
    return path
