"""Drop documents that share a run of words with an evaluation set (Brown et al. 2020, appendix C).

An evaluation item shorter than a run is matched completely, if it has 8 words or more. Shorter
items, and runs of very short words such as `a 1 b 2 c 3 d 4`, are ignored, because they would match
by chance.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Rejected, Survey
from llamac.data.stages import StageError
from llamac.data.stages.common import segments
from llamac.data.stages.common.need import file_bytes, sha256
from llamac.data.stages.common.words import Hashes, hash_texts, ngrams, normalised_words
from llamac.spec.stages import Decontaminate

MIN_WORDS = 8  # of an evaluation item that is searched for
MIN_RUN_BYTES = 30  # fewest bytes in a run's words
_SIEVE_BITS = 24
_NOTHING = f"`paths`: no item has {MIN_WORDS} words or more"
_MAX_NAMES = 20  # items that a detail names


@dataclass(frozen=True)
class Evaluation:
    """Word runs of evaluation sets to search for.

    items: names of the evaluation items, as "file:line". runs: by number of words, the sorted
    hashes of runs, uint64 [n], and the indices of their items, int64 [n]. sieve: by the upper 24
    bits of a hash, whether any run has them, bool [2^24].
    """

    items: list[str]
    runs: dict[int, tuple[Hashes, NDArray[np.int64]]]
    sieve: NDArray[np.bool_]


def build(stage: Decontaminate) -> Survey:
    """Return the survey that drops documents which share a run of words with an evaluation set.

    Raises StageError if one of `stage.paths` matches no file.
    """
    _files(stage)
    return _Decontaminate(stage)


def facts(stage: Decontaminate) -> dict[str, Any]:
    """Return the sha256 of each evaluation file, and the numbers of texts and of too short ones.

    Raises StageError if a file is missing, or no text is long enough.
    """
    contents = {path: sha256(file_bytes(path, "`paths` names this file")) for path in _files(stage)}
    items = [item for _, _, item in _items(stage)]
    short = sum(len(item) < MIN_WORDS for item in items)
    if short == len(items):
        raise StageError(_NOTHING)
    return {"sets": contents, "texts": len(items), "too_short": short}


def contaminated_documents(decision: Path, parts: int) -> Iterator[dict[str, Any]]:
    """Yield an entry for each dropped document, from the decision file.

    parts: number of the source's parts. Keys: `file` and `line` of the document; `items`, the
    evaluation items as "file:line"; `words`, the first of its shortest shared runs.
    """
    for part in range(parts):
        yield from _hits(decision, part).values()


def _hits(decision: Path, part: int) -> dict[str, dict[str, Any]]:
    return json.loads(segments.read(decision, part))


class _Decontaminate:
    def __init__(self, stage: Decontaminate) -> None:
        self.stage = stage

    def scan(self, documents: Iterable[Document], findings: Path) -> None:
        """Find contaminated documents of a part. Only this step reads the evaluation sets."""
        sets, hits = evaluation(self.stage), {}
        for number, document in enumerate(documents):
            if hit := contamination(document.text, sets):
                hits[str(number)] = {"file": document.file, "line": document.line, **hit}
        findings.write_text(json.dumps(hits), encoding="utf-8")

    def merge(self, findings: Sequence[Path], decision: Path) -> None:
        segments.write(decision, (path.read_bytes() for path in findings))

    def judge(self, decision: Path, part: int) -> Filter:
        hits, numbers = _hits(decision, part), count()

        def judge(document: Document) -> Document | Rejected:
            hit = hits.get(str(next(numbers)))
            return Rejected("evaluation data", _detail(hit)) if hit else document

        return judge


def _detail(hit: dict[str, Any]) -> str:
    items = hit["items"]
    rest = f" and {len(items) - _MAX_NAMES} more" if len(items) > _MAX_NAMES else ""
    return f"{', '.join(items[:_MAX_NAMES])}{rest}: {hit['words']}"


def contamination(text: str, sets: Evaluation) -> dict[str, Any]:
    """Return the evaluation items that share a run of words with a text.

    Keys: `items`, their names; `words`, the first of the shortest shared runs. Empty if there are
    none.
    """
    text_words = normalised_words(text).split()
    hashes = hash_texts(text_words)
    items: set[int] = set()
    words = ""
    for size, (runs, owners) in sets.runs.items():
        if len(hashes) < size:
            continue
        grams = ngrams(hashes, size)
        for at in np.flatnonzero(sets.sieve[grams >> np.uint64(64 - _SIEVE_BITS)]):
            low, high = np.searchsorted(runs, grams[at]), np.searchsorted(runs, grams[at], "right")
            if low < high:
                words = words or b" ".join(text_words[at : at + size]).decode(errors="replace")
                items.update(owners[low:high].tolist())
    return {"items": [sets.items[item] for item in sorted(items)], "words": words} if items else {}


def evaluation(stage: Decontaminate) -> Evaluation:
    """Read the stage's evaluation sets.

    Raises StageError if a file is missing or not JSON, or no item is long enough.
    """
    names: list[str] = []
    pieces: dict[int, list[Hashes]] = {}
    owners: dict[int, list[NDArray[np.int64]]] = {}
    for path, line, item in _items(stage):
        if len(item) < MIN_WORDS:
            continue
        name = f"{Path(path).name}:{line}"
        if not names or names[-1] != name:
            names.append(name)
        size = min(stage.ngram, len(item))
        ends = np.cumsum([0, *map(len, item)])
        grams = ngrams(hash_texts(item), size)[ends[size:] - ends[:-size] >= MIN_RUN_BYTES]
        pieces.setdefault(size, []).append(grams)
        owners.setdefault(size, []).append(np.full(len(grams), len(names) - 1))
    if not names:
        raise StageError(_NOTHING)
    sieve = np.zeros(1 << _SIEVE_BITS, bool)
    runs = {}
    for size in sorted(pieces):
        grams, run_owners = np.concatenate(pieces[size]), np.concatenate(owners[size])
        order = np.argsort(grams, kind="stable")
        runs[size] = grams[order], run_owners[order]
        sieve[grams >> np.uint64(64 - _SIEVE_BITS)] = True
    return Evaluation(names, runs, sieve)


def _files(stage: Decontaminate) -> list[str]:
    paths: set[str] = set()
    for pattern in stage.paths:
        matches = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]
        if not matches:
            raise StageError(f"`paths`: no file matches {pattern!r}")
        paths.update(matches)
    return sorted(paths)


def _items(stage: Decontaminate) -> Iterator[tuple[str, int, list[bytes]]]:
    """Yield (file, line, words) of each text of the evaluation sets."""
    for path in _files(stage):
        text = file_bytes(path, "`paths` names this file").decode(errors="replace")
        if path.endswith((".jsonl", ".json")):
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield from (
                        (path, number, normalised_words(t).split())
                        for t in _json(path, number, line)
                    )
        else:
            number = 1
            for paragraph in text.split("\n\n"):
                yield path, number, normalised_words(paragraph).split()
                number += paragraph.count("\n") + 2


def _json(path: str, number: int, line: str) -> Iterator[str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}:{number} is not JSON: {error}") from None
    yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _strings(inner)
        case list():
            for inner in value:
                yield from _strings(inner)
