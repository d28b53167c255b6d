"""Output files of `-o` and similar options: atomic writes that replace only llamac's own files.

An existing file is replaced only if llamac wrote it and it is unchanged since, or with
`--overwrite`. An input of the same command is never replaced. Files written by llamac end in a
marker: a comment in the file's format, with a hash of the rest of the file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llamac.spec import Spec

OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file that llamac did not write")
]

_MARKER = re.compile(rb"made by llamac ([0-9a-f]{16})")
_COMMENTS = {  # first bytes of the content → the suffix that contains the marker
    b"\x89PNG": b"%s",  # readers of PNG stop at its IEND
    b"<": b"<!-- %s -->\n",
    b"{": b',\n  "$comment": "%s"\n}\n',
    b"digraph": b"// %s\n",
    b"": b"# %s\n",
}


def check_output(
    path: Path, inputs: Iterable[str | Path] = (), overwrite: bool = False, option: str = "-o"
) -> None:
    """Raise typer.BadParameter (exit code 2) if an option must not or cannot write `path`.

    It must not be a directory, an input, or a file that llamac did not write, and its directory
    must exist. Call this before computing the content.

    inputs: files and globs that the command reads, such as `inputs_of` a spec.
    overwrite: whether a file that llamac did not write may be replaced.
    option: the option that named the path, for the message.
    """
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory", param_hint=option)
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent}", param_hint=option)
    if not path.exists():
        return
    if any(_same(path, Path(one).expanduser()) for one in inputs):
        message = f"{path} is an input of this command; name another file"
        raise typer.BadParameter(message, param_hint=option)
    if path.is_file() and not overwrite and not _made_here(path):
        message = f"{path} exists and was not written by llamac: choose another file, or replace "
        raise typer.BadParameter(message + "this one with --overwrite", param_hint=option)


def write_output(
    path: Path,
    content: str | bytes,
    inputs: Iterable[str | Path] = (),
    overwrite: bool = False,
    option: str = "-o",
) -> None:
    """Write content and llamac's marker to `path` atomically, after `check_output`.

    A pipe or device is written to directly. Raises typer.BadParameter if the check or writing
    fails. inputs, overwrite, option: as for `check_output`.
    """
    from llamac.runtime import durable_files

    check_output(path, inputs, overwrite, option)
    marked = _marked(content.encode() if isinstance(content, str) else content)
    if path.exists() and not path.is_file():  # a pipe, /dev/stdout: nothing to replace
        path.write_bytes(marked)
        return
    target = path.resolve()  # keep a link and replace its target
    try:
        durable_files.write(target, marked)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise typer.BadParameter(message, param_hint=option) from None


def inputs_of(spec: Spec) -> list[str | Path]:
    """Return the paths and globs that a command may read for a spec.

    They are its TOML files, tokenizers, data sources and device (a file or a built-in name).
    """
    found: list[str | Path] = list(spec.files)
    found += [path for source in spec.data.source for path in source.paths]
    named = [spec.tokenizer.path, spec.hardware.gpu, *(one.tokenizer for one in spec.data.source)]
    return found + [path for path in named if path]


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # not a file: a glob, or a name such as a100-80gb
        return fnmatch(str(path.absolute()), os.path.normpath(other.absolute()))


def _marked(content: bytes) -> bytes:
    comment = next(text for start, text in _COMMENTS.items() if content.startswith(start))
    if comment.startswith(b","):  # goes inside the outermost braces
        content = content.rstrip().removesuffix(b"}").rstrip()
    elif comment != b"%s" and not content.endswith(b"\n"):
        content += b"\n"
    draft = content + comment % (b"made by llamac " + b"0" * 16)
    span = _last_marker(draft)
    assert span is not None
    return draft[: span[0]] + _digest(draft, *span) + draft[span[1] :]


def _made_here(path: Path) -> bool:
    """Return whether the file ends in a marker whose hash matches the rest of it."""
    content = path.read_bytes()
    span = _last_marker(content)
    return span is not None and content[slice(*span)] == _digest(content, *span)


def _last_marker(content: bytes) -> tuple[int, int] | None:
    """Return begin and end of the hash in the marker at the end of `content`, or None."""
    start = max(0, len(content) - 100)
    found = list(_MARKER.finditer(content[start:]))
    return (start + found[-1].start(1), start + found[-1].end(1)) if found else None


def _digest(content: bytes, begin: int, end: int) -> bytes:
    """Return the hash of `content` without its marker's hash, as 16 hexadecimal digits."""
    return hashlib.sha256(content[:begin] + content[end:]).hexdigest()[:16].encode()
