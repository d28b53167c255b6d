"""Check before work begins that the files which a spec names exist."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from llamac.spec import Spec
from llamac.spec.data import PYTHON, Source
from llamac.spec.tokenizer import ALPACA
from llamac.spec.toml.toml_document import TomlDocument
from llamac.spec.validation.errors import Path, Problem


def missing_files(sections: Mapping[str, Any], document: TomlDocument) -> Iterator[Problem]:
    """Yield a problem for each file of a spec that is missing or unusable: a rule for `load_spec`.

    These are missing paths, globs without matches or with unsupported files, a `text_field` that is
    not a column, and packages without which a source cannot be read. Paths in shipped specs are
    checked by `missing_elsewhere` instead.

    sections: the spec's valid sections by name. document: where each value was set.
    """
    for problem in _missing(sections):
        if not _is_shipped(problem, document):
            yield problem


def missing_elsewhere(spec: Spec) -> list[str]:
    """Return a message for each missing or unusable file of a key that a shipped spec sets.

    The checks are those of `missing_files`, which ignores such keys because a shipped spec's data
    may be on another machine.
    """
    document = spec.document
    if document is None:
        return []
    found = (problem for problem in _missing(dict(spec)) if _is_shipped(problem, document))
    return [problem.message for problem in found]


def _is_shipped(problem: Problem, document: TomlDocument) -> bool:
    return document.place(problem.path).value.file in document.shipped


def _missing(sections: Mapping[str, Any]) -> Iterator[Problem]:
    if "tokenizer" in sections:
        yield from _file(("tokenizer", "path"), sections["tokenizer"].path, "tokenizer")
        template = sections["tokenizer"].chat_template
        if template != ALPACA:
            yield from _file(("tokenizer", "chat_template"), template, "chat template")
    source = sections["init"].source if "init" in sections else None
    if source is not None and not os.path.isdir(os.path.expanduser(source)):
        message = f"there is no import, run or checkpoint {source}"
        yield Problem(("init", "from"), message, RELATIVE)
    if "eval" in sections and sections["eval"].tasks:
        path = sections["eval"].questions
        if path is not None and not os.path.isfile(os.path.expanduser(path)):
            yield Problem(("eval", "questions"), f"there is no question file {path}", RELATIVE)
    if "data" not in sections:
        return
    for index, source in enumerate(sections["data"].source):
        at: Path = ("data", "source", index)
        yield from _file((*at, "tokenizer"), source.tokenizer, "tokenizer")
        if source.kind not in PYTHON:
            yield from _inputs(at, source)


def _file(at: Path, path: str | None, what: str) -> Iterator[Problem]:
    if path is not None and not os.path.isfile(os.path.expanduser(path)):
        yield Problem(at, f"there is no {what} {path}", RELATIVE)


def _inputs(at: Path, source: Source) -> Iterator[Problem]:
    from llamac.data.readers import input_paths
    from llamac.runtime.data.sources.conversations import check_inputs
    from llamac.runtime.errors import InputError, SourceError

    found, whole = list[str](), True
    for number, pattern in enumerate(source.paths):
        try:
            found += input_paths(source.model_copy(update={"paths": (pattern,)}))
        except InputError as error:
            hint = RELATIVE if str(error).startswith("no ") else ""
            yield Problem((*at, "paths", number), f"source {source.name}: {error}", hint)
            whole = False
    if not whole:
        return
    try:
        check_inputs(source.kind, found, source.text_field)
    except InputError as error:
        key = "text_field" if source.is_set("text_field") else "paths"
        yield Problem((*at, key), f"source {source.name}: {error}")
    except SourceError as error:  # a package is missing
        yield Problem((*at, "paths"), f"source {source.name}: {error}")


RELATIVE = (
    "paths are relative to the spec that contains them; in --set and shipped specs, to the "
    "working directory"
)
