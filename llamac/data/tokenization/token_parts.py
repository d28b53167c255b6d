"""Write cleaned text as token shards with an index of their documents, part by part.

A part's files grow chunk by chunk, and their lengths are recorded after each chunk. A resuming
process truncates them to the recorded lengths and appends the same bytes again.

    <source>/train-00007-00000.bin   first shard of part 7, in the format of `runtime.data.prepared`
    <source>/train-00007.docs        one `RECORD` per document of the part
    <source>/train-00007.names       names of their files, each terminated by a NUL
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llamac.data import chunks
from llamac.data.clean import chunks_of
from llamac.data.document import Document
from llamac.data.readers.tokens import source_tokenizer
from llamac.data.source_plan import Part, SourcePlan
from llamac.data.state import folder_lock
from llamac.runtime.data.prepare_job import PrepareJob
from llamac.runtime.data.prepared import SPLITS, token_ids
from llamac.runtime.data.token_shards import BATCH_BYTES
from llamac.runtime.data.vocabulary import UnknownCounter
from llamac.runtime.durable_files import (
    Damaged,
    NewFile,
    is_undamaged,
    read_note_or_empty,
    write_note,
)
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import Tokenizer

UNKNOWN = "unknown"  # key in a part's record: (unknown tokens, all tokens)
INDEX = ("docs", "names")  # extensions of the index files of a part
RECORD = np.dtype([("end", "<u8"), ("name", "<u8"), ("line", "<u8")])
"""Index entry of a document.

end: end of its tokens, EOS included, within the part's tokens of this split. name: byte offset of
its file's name in the `.names` file. line: as in `Document`.
"""


def tokenize(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> None:
    """Tokenise a part chunk by chunk, resuming after the last recorded chunk.

    work: folder of the parts' recorded state. Raises TokenizerError if too many tokens are unknown.
    """
    state = _state(work, plan, part)
    with folder_lock(state.with_name(f"{part.number:05}.tokenize")):
        if is_tokenized(job, work, plan, part):
            return
        model = load_tokenizer_file(job.root / "tokenizer.model")
        folder = job.root / plan.source.name
        folder.mkdir(exist_ok=True)
        saved = read_note_or_empty(state)
        if not _shards_are_whole(job, saved):
            saved = {}
        stem = f"{part.number:05}"
        try:
            writers = {s: _Split(folder, f"{s}-{stem}", job, saved.get(s, {})) for s in SPLITS}
        except Damaged:  # the text still exists, so the part is tokenised again from its beginning
            saved, writers = {}, {s: _Split(folder, f"{s}-{stem}", job, {}) for s in SPLITS}
        unknown = UnknownCounter(plan.source.name, model, saved.get(UNKNOWN, (0, 0)))
        encode = _encoder(job, model, plan, unknown)
        names = chunks_of(plan, part)
        for number in range(saved.get("chunks", 0), len(names)):
            _append(job, encode, chunks.read(names[number]), writers)
            split_states = {split: writer.flush() for split, writer in writers.items()}
            unknown_counts = {UNKNOWN: [unknown.unknown, unknown.tokens]}
            write_note(
                state, {"chunks": number + 1, "done": False, **split_states, **unknown_counts}
            )
        split_states = {split: writer.close() for split, writer in writers.items()}
        unknown_counts = {UNKNOWN: [unknown.unknown, unknown.tokens]}
        write_note(state, {"chunks": len(names), "done": True, **split_states, **unknown_counts})


def is_tokenized(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> bool:
    """Return whether the part is tokenised and its shards and index files are undamaged."""
    state = read_note_or_empty(_state(work, plan, part))
    if not (state.get("done", False) and _shards_are_whole(job, state)):
        return False
    stem = job.root / plan.source.name
    return all(
        is_undamaged(stem / f"{split}-{part.number:05}.{kind}", state[split]["hashes"][kind])
        for split in SPLITS
        for kind in INDEX
    )


def _shards_are_whole(job: PrepareJob, state: dict[str, Any]) -> bool:
    shards = [shard for split in SPLITS for shard in state.get(split, {}).get("shards", [])]
    return all(is_undamaged(job.root / shard["file"], shard["sha256"]) for shard in shards)


def read_part_state(work: Path, plan: SourcePlan, part: Part) -> dict[str, Any]:
    """Return the recorded state of a part; empty if it is not begun.

    For each split, a dictionary of counts, hashes and shards; under UNKNOWN, (unknown, all) tokens.
    """
    return read_note_or_empty(_state(work, plan, part))


Encode = Callable[[list[Document]], list[np.ndarray]]
"""Function that returns the stored tokens of each document, including EOS, int32 [n]."""


def _encoder(
    job: PrepareJob, model: Tokenizer, plan: SourcePlan, unknown: UnknownCounter
) -> Encode:
    """Return a function that encodes a batch of documents.

    Tokens of a source of kind `tokens` with the same vocabulary are kept, since another tool may
    segment text differently; only an EOS within a document is removed. Conversations are encoded
    already.
    """

    def stored(batch: list[Document]) -> list[np.ndarray]:
        tokens = [np.array(document.tokens, np.int32) for document in batch]
        unknown.add([document.text for document in batch], list(map(token_ids, tokens)))
        return list(map(job.stored, tokens))

    if plan.supervision:
        return stored
    same = plan.source.kind == "tokens"
    same = same and source_tokenizer(plan.source).pieces_sha256 == model.pieces_sha256

    def encode(batch: list[Document]) -> list[np.ndarray]:
        existing = [document.tokens if same else None for document in batch]
        texts = [d.text for d, tokens in zip(batch, existing, strict=True) if tokens is None]
        encoded = iter(model.encode_batch(texts))
        token_arrays = [
            next(encoded) if tokens is None else np.array([t for t in tokens if t != model.eos])
            for tokens in existing
        ]
        unknown.add([document.text for document in batch], token_arrays)
        return [
            job.stored(np.append(tokens, model.eos).astype(np.int32)) for tokens in token_arrays
        ]

    return encode


def _append(
    job: PrepareJob, encode: Encode, documents: Iterable[Document], writers: dict[str, _Split]
) -> None:
    for batch in _batches(documents):
        for document, tokens in zip(batch, encode(batch), strict=True):
            data = document.text.encode()
            split = "validation" if job.is_held_out(data) else "train"
            writers[split].add(document, tokens, len(data))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _state(work: Path, plan: SourcePlan, part: Part) -> Path:
    return work / plan.source.name / f"{part.number:05}.json"


@dataclass
class _SplitState:
    """Recorded state of one split of a part.

    held: tokens in the unfinished shard. docs, names: bytes of the index files. hashes: sha256 of
    the contents of these three files.
    """

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    held: int = 0
    docs: int = 0
    names: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)


class _Split:
    """Writer of the files of one split of a part."""

    def __init__(self, folder: Path, name: str, job: PrepareJob, state: dict[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.dtype, self.shard_tokens = job.dtype, job.shard_tokens
        # The last file name written, and its offset.
        self.state, self.last, self.at = _SplitState(**state), "", 0
        self.docs = self._file("docs", f"{name}.docs", self.state.docs)
        self.names = self._file("names", f"{name}.names", self.state.names)
        self.shard = self._shard(self.state.held)

    def add(self, document: Document, tokens: np.ndarray, text_bytes: int) -> None:
        """Append a document. tokens: its stored tokens, including EOS."""
        state = self.state
        state.documents += 1
        state.bytes += text_bytes
        state.tokens += len(tokens)
        if document.file != self.last:
            self.last, self.at = document.file, self.names.size
            self.names.write(document.file.encode(errors="surrogateescape") + b"\0")
        self.docs.write(np.array((state.tokens, self.at, document.line), RECORD).tobytes())
        while len(tokens):
            head, tokens = np.split(tokens, [self.shard_tokens - state.held])
            self.shard.write(head.astype(self.dtype).tobytes())
            state.held += len(head)
            if state.held == self.shard_tokens:
                self._finish_shard()

    def flush(self) -> dict[str, Any]:
        """Flush all files to disk and return the state to record."""
        for file in (self.docs, self.names, self.shard):
            file.sync()
        self.state.docs, self.state.names, self.last = self.docs.size, self.names.size, ""
        files = {"docs": self.docs, "names": self.names, "shard": self.shard}
        self.state.hashes = {kind: file.sha256 for kind, file in files.items()}
        return asdict(self.state)

    def close(self) -> dict[str, Any]:
        if self.state.held:
            self._finish_shard()
        state = self.flush()
        self.shard.discard()
        self.docs.commit()
        self.names.commit()
        return state

    def _shard(self, held: int) -> NewFile:
        name = f"{self.name}-{len(self.state.shards):05}.bin"
        return self._file("shard", name, held * self.dtype.itemsize)

    def _file(self, kind: str, name: str, size: int) -> NewFile:
        resume = (size, self.state.hashes[kind]) if size else None
        return NewFile(self.folder / name, resume)

    def _finish_shard(self) -> None:
        file = f"{self.folder.name}/{self.shard.path.name}"
        digest = self.shard.commit()
        self.state.shards.append({"file": file, "tokens": self.state.held, "sha256": digest})
        self.state.held = 0
        self.shard = self._shard(0)
