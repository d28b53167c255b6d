"""Find the input files of a source, and fingerprint them."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import InputError
from .decompress import SUFFIXES, stem

PYTHON = ("python-docs", "python-source")  # kinds that read Python's standard library, not files
CONVERSATIONS = ("supervised", "preferences")  # kinds whose records are conversations
TREES = ("github", "arxiv")  # kinds for which a directory is one input: a repository, a paper
TOKENS = (".idx", ".ds")  # inputs of kind "tokens": Megatron's index of a .bin, datatrove's tokens

FORMATS = {
    "text": (".txt", ".md", ".text"),
    "json lines": (".jsonl", ".ndjson", ".jsonlines"),
    "json": (".json",),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "parquet": (".parquet",),
}
"""Format of records or text → endings of file names."""
# Endings of all formats, and of those that consist of records.
ENDINGS = tuple(end for ends in FORMATS.values() for end in ends)
RECORDS = tuple(end for ends in list(FORMATS.values())[1:] for end in ends)
READ_HERE = {"files": ENDINGS, **dict.fromkeys(CONVERSATIONS, RECORDS)}
"""Source kind → endings that its files must have, for the kinds that a trainer reads itself."""

# Hints for files of other kinds that were given to a source of kind "files".
_HINTS = (
    ((".html", ".htm", ".xhtml", ".warc", ".wet", ".arc"), 'kind = "commoncrawl" or "c4" reads it'),
    ((".xml",), 'kind = "wikipedia" or "stackexchange" reads such dumps'),
    ((".tex", ".ltx", ".rnw"), 'kind = "arxiv" reads it'),
    ((".py", ".c", ".h", ".cpp", ".js", ".ts", ".go", ".rs", ".java"), 'kind = "github" reads it'),
    ((".tar", ".tgz", ".zip"), "unpack it, or use the kind of its dump"),
    ((".idx", ".bin", ".ds"), 'kind = "tokens" reads .idx and .ds files'),
)
_SPARKS_OWN = re.compile(r"\.parquet/(?:[^/]*/)*[._][^/]*", re.I)  # _SUCCESS, .crc files
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def needs_cleaning(source: dict[str, Any]) -> bool:
    """Return whether only `llamac data prepare` can prepare the source, not a trainer itself.

    source: `[[data.source]]` table. True for dumps, tokens, and sources with stages of cleaning.
    """
    return source["kind"] not in (*PYTHON, *CONVERSATIONS, "files") or bool(source.get("stage"))


def format_of(path: str) -> str | None:
    """Return the key in `FORMATS` of a file, from its name in any case, or None.

    A compression suffix is ignored. All files within a directory `x.parquet`, as Spark and Hive
    write it, are parquet.
    """
    if _in_parquet(path):
        return "parquet"
    name = stem(path)
    return next((kind for kind, ends in FORMATS.items() if name.endswith(ends)), None)


def _in_parquet(path: str) -> bool:
    return any(part.endswith(FORMATS["parquet"]) for part in path.lower().split(os.sep)[:-1])


def unknown_name(path: str, kind: str, endings: Sequence[str], *at: str | int) -> InputError:
    """Return the error for a file whose name does not end as the source's kind requires.

    endings: endings that it accepts. at: key in the source's table that names the file, such as
    "paths", 0.
    """
    name = stem(path)
    hint = next((f" ({hint})" for ends, hint in _HINTS if name.endswith(ends)), "")
    return InputError(
        f"{path}: cannot read this kind of file{hint}. Names of kind = {kind!r} end in "
        f"{', '.join(endings)}, each also with {', '.join(SUFFIXES)}: convert or rename it, or "
        "narrow the source's paths",
        *at,
    )


def file_list(source: dict[str, Any]) -> list[str]:
    """Return the sorted files that a source's globs match.

    For kinds in `TREES`, a matched directory is listed instead of the files in it. For tokens, only
    names with an ending of `TOKENS` are listed. A directory `x.parquet` is replaced by the files in
    it. Raises InputError if a glob matches no file or is a URL, or if a file's name does not end as
    `READ_HERE` requires.
    """
    files = set[str]()
    for number, pattern in enumerate(source["paths"]):
        if _REMOTE.match(pattern):
            raise InputError(
                f"{pattern!r} is remote, but sources must be local files: download it, and give "
                "the path of the copy",
                "paths",
                number,
            )
        matches = _matches(source["kind"], pattern)
        if not matches:
            what = " or ".join(TOKENS) + " file" if source["kind"] == "tokens" else "file"
            where = "" if os.path.isabs(os.path.expanduser(pattern)) else f" in {os.getcwd()}"
            raise InputError(f"no {what} matches {pattern!r}{where}", "paths", number)
        endings = READ_HERE.get(source["kind"], ())
        for path in matches if endings else ():
            if not set(FORMATS.get(format_of(path) or "", ())) & {*endings}:
                raise unknown_name(path, source["kind"], endings, "paths", number)
        files.update(matches)
    if source["kind"] not in TREES:
        return sorted(files)
    inputs: list[str] = []
    for path in sorted(files, key=lambda path: path.split(os.sep)):  # a directory, then its files
        if not inputs or not path.startswith(inputs[-1] + os.sep):
            inputs.append(path)
    return inputs


def _matches(kind: str, pattern: str) -> list[str]:
    places = glob.iglob(_literal(os.path.expanduser(pattern)), recursive=True)
    matches = [os.path.normpath(path) for path in places]
    if kind in TREES:
        return matches
    if kind == "tokens":
        return [path for path in matches if os.path.isfile(path) and path.endswith(TOKENS)]
    return [file for path in matches if not _SPARKS_OWN.search(path) for file in _files(path)]


def _files(path: str) -> Iterator[str]:
    """Yield the file itself, or the files of a directory that stands for a parquet file."""
    if os.path.isfile(path):
        yield path
    elif path.lower().endswith(FORMATS["parquet"]):
        for folder, inner, names in os.walk(path):
            inner[:] = [name for name in inner if name[0] not in "._"]
            yield from (os.path.join(folder, name) for name in names if name[0] not in "._")


def _literal(pattern: str) -> str:
    """Escape the pattern's brackets where a file or directory of that literal name exists."""
    parts, prefix = pattern.split(os.sep), ""
    for number, part in enumerate(parts):
        if glob.has_magic(part):
            if "[" not in part or not os.path.lexists(prefix + part):
                break
            parts[number] = glob.escape(part)
        prefix += part + os.sep
    return os.sep.join(parts)


def input_bytes(path: str) -> int:
    """Return the size in bytes of a file, of an index and its tokens, or of a directory's files."""
    if not os.path.isdir(path):
        tokens = path.removesuffix(".idx") + ".bin"
        has_tokens = path.endswith(".idx") and os.path.isfile(tokens)
        return os.path.getsize(path) + (os.path.getsize(tokens) if has_tokens else 0)
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(os.lstat(name).st_size for name in inside)


def input_fingerprint(source: dict[str, Any]) -> dict[str, Any]:
    """Return a fingerprint of a source's inputs, from their names and sizes only.

    Keys: `files`, their number; `bytes`, their total size; `listing_sha256`, a hash of names and
    sizes.
    """
    return listing_of([(path, input_bytes(path)) for path in file_list(source)])


def listing_of(sizes: list[tuple[str, int]]) -> dict[str, Any]:
    """Return the fingerprint of inputs, with the keys of `input_fingerprint`.

    sizes: (path, bytes) of each input, in order.
    """
    return {
        "files": len(sizes),
        "bytes": sum(size for _, size in sizes),
        "listing_sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
    }
