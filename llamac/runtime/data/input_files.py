"""Which files a source consists of, and how to tell that they are still the same."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from typing import Any

from ..errors import RunError

PYTHON = ("python-docs", "python-source")  # kinds that come with Python, without files of their own
TREES = ("github", "arxiv")  # kinds of which a directory is one input: a repository, a paper
TOKENS = (".idx", ".ds")  # of kind "tokens": Megatron's index beside a .bin, datatrove's tokens


class SourceError(RunError, ValueError):
    """A source that cannot be read at all: nothing matches, or a package is missing."""


def needs_cleaning(source: dict[str, Any]) -> bool:
    """Whether its text must have gone through `llamac data prepare`."""
    return source["kind"] not in (*PYTHON, "files") or bool(source.get("stage"))


def file_list(source: dict[str, Any]) -> list[str]:
    """The sorted files that a source's globs match; of some kinds also directories, in place of
    the files in them; of tokens, those that stand for the files beside them. SourceError if a glob
    matches none."""
    trees, found = source["kind"] in TREES, set[str]()
    ends = TOKENS if source["kind"] == "tokens" else ("",)
    for pattern in source["paths"]:
        places = glob.iglob(os.path.expanduser(pattern), recursive=True)
        matches = [os.path.normpath(path) for path in places]
        matches = [path for path in matches if trees or os.path.isfile(path)]
        matches = [path for path in matches if path.endswith(ends)]
        if not matches:
            what = " or ".join(ends) + " file" if ends[0] else "file"
            raise SourceError(f"no {what} matches {pattern!r}")
        found.update(matches)
    if not trees:
        return sorted(found)
    inputs: list[str] = []
    for path in sorted(found, key=lambda path: path.split(os.sep)):  # a directory, then its files
        if not inputs or not path.startswith(inputs[-1] + os.sep):
            inputs.append(path)
    return inputs


def input_bytes(path: str) -> int:
    """The size of a file, with the tokens beside it if it is their index, or of all files in a
    directory."""
    if not os.path.isdir(path):
        tokens = path.removesuffix(".idx") + ".bin"
        beside = path.endswith(".idx") and os.path.isfile(tokens)
        return os.path.getsize(path) + (os.path.getsize(tokens) if beside else 0)
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(os.lstat(name).st_size for name in inside)


def fingerprint(source: dict[str, Any]) -> dict[str, Any]:
    """How many inputs a source has, their bytes, and a hash of their names and sizes."""
    return listing_of([(path, input_bytes(path)) for path in file_list(source)])


def listing_of(sizes: list[tuple[str, int]]) -> dict[str, Any]:
    """`fingerprint` of inputs with known sizes."""
    return {
        "files": len(sizes),
        "bytes": sum(size for _, size in sizes),
        "listing_sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
    }
