"""Run one cleaning pass over one part: read documents, filter them, write chunks of documents.

Each finished chunk is a checkpoint. A killed pass resumes after its last chunk and writes the same
bytes as an uninterrupted run, because chunk boundaries, counts and samples depend only on the
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.data import chunks
from llamac.data.accounting import funnel
from llamac.data.accounting.funnel import StepCounts
from llamac.data.document import Document, Filter, Rejected
from llamac.data.readers import reader_for
from llamac.data.source_plan import CleaningPass, Part, SourcePlan
from llamac.data.stages import build
from llamac.data.state import folder_lock
from llamac.runtime.data.answer_tokens import read_supervised
from llamac.runtime.data.sources.input_files import PYTHON
from llamac.runtime.data.sources.skipped_records import EXAMPLES, Skipped
from llamac.runtime.data.sources.source_documents import documents
from llamac.runtime.durable_files import read_note_or_empty, write_note
from llamac.runtime.errors import RunError, SourceError
from llamac.spec.data import Source

STATE = "state.json"  # progress of a pass, in its folder
INPUT_PER_CHUNK = 16  # a chunk also ends after reading this many times its size


def clean(plan: SourcePlan, number: int, part: Part) -> None:
    """Run or resume pass `number` over a part, then delete the chunks of the previous pass.

    number: index of the pass in `plan.passes`. Does nothing if both are done.
    """
    folder = plan.folder(number, part.number)
    with folder_lock(folder):
        state = _State.load(folder)
        if not state.done:
            _resume(plan, plan.passes[number], part, state)
        if number:
            _delete_previous_chunks(plan, number, part)


def is_clean(plan: SourcePlan, number: int, part: Part) -> bool:
    """Return whether pass `number` over a part is complete and its input chunks are deleted."""
    previous_chunks = number and chunks.paths_in(plan.folder(number - 1, part.number))
    return not previous_chunks and _State.load(plan.folder(number, part.number)).done


def step_counts(plan: SourcePlan, part: Part) -> list[StepCounts]:
    """Return the counts of a part's reader and stages so far, in the order of cleaning."""
    states = [_State.load(plan.folder(step.number, part.number)) for step in plan.passes]
    return [row for state in states for row in state.rows]


def funnel_of(plan: SourcePlan) -> list[StepCounts]:
    """Return the counts of a source's reader and stages so far, summed over its parts."""
    return funnel.total([step_counts(plan, part) for part in plan.parts])


def require_text(plan: SourcePlan) -> None:
    """Raise SourceError with the most frequent reasons if cleaning left no document of a source."""
    rows = funnel_of(plan)
    if rows[-1].left[0]:
        return
    reasons = {f"{row.name}: {why}": n for row in rows for why, (n, _) in row.rejected.items()}
    frequent = sorted(reasons.items(), key=lambda item: -item[1])[:5]
    why = ", ".join(f"{count} × {reason}" for reason, count in frequent) or "its files are empty"
    raise SourceError(
        f"source {plan.source.name!r} has no documents left to train on ({why}): see "
        "`llamac data stats --samples`"
    )


def skipped_examples(plan: SourcePlan, part: Part) -> list[str]:
    """Return examples of what a part's reader skipped, each as "position: reason"."""
    return _State.load(plan.folder(0, part.number)).skipped


def chunks_of(plan: SourcePlan, part: Part, number: int | None = None) -> list[chunks.SavedChunk]:
    """Return the chunks of documents that a cleaning pass wrote for a part, in order.

    number: index of the pass in `plan.passes`; None means the last one.
    """
    folder = plan.folder(plan.last if number is None else number, part.number)
    hashes = _State.load(folder).chunks
    return [chunks.SavedChunk(chunks.path_of(folder, i), sha256) for i, sha256 in enumerate(hashes)]


@dataclass
class _State:
    """Progress of a pass over a part, as saved in `state.json`.

    chunks: sha256 of each chunk written. input: number of inputs read completely. document: number
    of documents read from the next input. read: bytes of text read from the part.
    """

    folder: Path
    rows: list[StepCounts]
    skipped: list[str]
    chunks: list[str] = field(default_factory=list)
    input: int = 0
    document: int = 0
    read: int = 0
    done: bool = False

    @classmethod
    def load(cls, folder: Path) -> _State:
        saved = read_note_or_empty(folder / STATE)
        saved.pop("sha256", None)
        rows = funnel.from_json(saved.pop("rows", []))
        return cls(folder=folder, rows=rows, **{"skipped": [], **saved})

    def save(self) -> None:
        values = {key: value for key, value in vars(self).items() if key not in ("folder", "rows")}
        write_note(self.folder / STATE, values | {"rows": funnel.to_json(self.rows)})


def _resume(plan: SourcePlan, step: CleaningPass, part: Part, state: _State) -> None:
    """Run a pass over the rest of a part, and commit each chunk as it fills."""
    judge, filters = _filters(plan, step, part)
    reads, limit = step.number == 0, part.max_text_bytes if step.number == 0 else None
    state.rows = state.rows or _empty_rows(plan.source, step)
    output, inputs = _Output(state, plan.chunk_bytes), _inputs(plan, step, part)
    for index, read in enumerate(inputs):
        if index < state.input:
            _feed_judge(judge, read)
            continue
        skipped = Skipped()
        for count, document in _remaining(read(skipped), state.document, judge):
            if limit is not None and state.read >= limit:
                break
            size = len(document.text.encode())
            state.read += size
            output.add(_apply_filters(document, size, state.rows, filters, reads), size)
            if output.is_full:
                state.input, state.document = index, count + 1
                output.commit()
        if reads:
            _count_skipped(state, skipped)
        state.input, state.document = index + 1, 0
    if reads:
        state.rows[0].entered = [len(inputs), part.bytes]
    state.done = True
    output.commit()


def _filters(
    plan: SourcePlan, step: CleaningPass, part: Part
) -> tuple[Filter | None, list[Filter]]:
    """Return (the survey's judge or None, all filters of the pass with that judge first)."""
    source = plan.source
    filters = [_guard(build(source.stage[index], source)) for index in step.filters]
    if step.survey is None:
        return None, filters
    survey: Any = build(source.stage[step.survey], source)
    judge = _guard(survey.judge(plan.decision_path(step.number), part.number))
    return judge, [judge, *filters]


def _empty_rows(source: Source, step: CleaningPass) -> list[StepCounts]:
    indices = step.filters if step.survey is None else (step.survey, *step.filters)
    reader = [] if step.number else [StepCounts("read")]
    return [*reader, *(StepCounts(source.stage[index].stage) for index in indices)]


def _feed_judge(judge: Filter | None, read: Read) -> None:
    """Show the judge a finished input's documents: it must see all of a part, in order."""
    if judge is not None:
        for document in read(Skipped()):
            judge(document)


def _remaining(
    documents: Iterator[Document], finished: int, judge: Filter | None
) -> Iterator[tuple[int, Document]]:
    """Yield (number, document) after the first `finished` ones, which only the judge sees."""
    for number, document in enumerate(documents):
        if number >= finished:
            yield number, document
        elif judge is not None:
            judge(document)


class _Output:
    """Writer of a pass's chunks, which commits each chunk together with the state after it.

    A chunk ends at a limit on its own size or on the text read for it, so that a pass that keeps
    few documents still saves its progress.
    """

    def __init__(self, state: _State, chunk_bytes: int) -> None:
        self.state, self.chunk_bytes = state, chunk_bytes
        self._begin()

    def _begin(self) -> None:
        path = chunks.path_of(self.state.folder, len(self.state.chunks))
        self.chunk, self.text_bytes = chunks.ChunkWriter(path), 0

    def add(self, document: Document | None, size: int) -> None:
        """Append a document, if one was kept. size: bytes of the text it was made from."""
        self.text_bytes += size
        if document is not None:
            self.chunk.add(document)

    @property
    def is_full(self) -> bool:
        limit = INPUT_PER_CHUNK * self.chunk_bytes
        return self.chunk.bytes >= self.chunk_bytes or self.text_bytes >= limit

    def commit(self) -> None:
        """Write the chunk, then the state: a chunk without its state is written again."""
        self.state.chunks += self.chunk.close()
        self.state.save()
        self._begin()


def _apply_filters(
    document: Document, size: int, rows: list[StepCounts], filters: list[Filter], reads: bool
) -> Document | None:
    """Pass a document through the filters and count it in `rows`; return None if one rejects it.

    reads: whether `rows` begins with the reader's row.
    """
    if reads:
        rows[0].keep(document, size, sampled=len(rows) == 1)
    for row, judge in zip(rows[reads:], filters, strict=True):
        before = document.text
        row.entered[0] += 1
        row.entered[1] += size
        outcome = judge(document)
        if isinstance(outcome, Rejected):
            row.reject(Document(before, document.file, document.line), size, outcome)
            return None
        document = outcome
        if document.text is not before and document.text != before:
            size, document.tokens = len(document.text.encode()), None
            row.change(document, before)
        row.keep(document, size, sampled=row is rows[-1])
    return document


def _guard(judge: Any) -> Filter:
    """Wrap a filter so that a document it raises on is rejected and counted."""

    def guarded(document: Document) -> Document | Rejected:
        try:
            return judge(document)
        except (RunError, KeyboardInterrupt):
            raise
        except Exception as error:
            return Rejected("the stage failed", f"{type(error).__name__}: {error}")

    return guarded


def _count_skipped(state: _State, skipped: Skipped) -> None:
    for reason, count in sorted(skipped.counts.items()):
        amount = state.rows[0].rejected.setdefault(reason, [0, 0])
        amount[0] += count
    room = EXAMPLES - len(state.skipped)
    state.skipped += [funnel.encodable(example) for example in skipped.examples[:room]]


Read = Callable[[Skipped], Iterator[Document]]
"""Function that yields the documents of one input and counts what it skips."""


def _inputs(plan: SourcePlan, step: CleaningPass, part: Part) -> list[Read]:
    """Return a reading function for each input of a pass: a file of the dump, or a chunk."""
    if step.number == 0:
        return [_reader_of(plan, path) for path in part.inputs]
    previous = chunks_of(plan, part, step.number - 1)
    return [lambda _, chunk=chunk: chunks.read(chunk) for chunk in previous]


def _reader_of(plan: SourcePlan, path: str) -> Read:
    source, supervision = plan.source, plan.supervision

    def read(skipped: Skipped) -> Iterator[Document]:
        if source.kind in PYTHON:
            texts = documents(source.toml_values(), skipped)
            yield from (Document(text, source.kind, n) for n, text in enumerate(texts, 1))
            return
        try:
            if supervision is not None:
                for line, text, tokens in read_supervised(
                    path, source.kind, supervision.encoder, skipped
                ):
                    yield Document(text, path, line, tokens=tokens.tolist())
                return
            yield from reader_for(source.kind)(path, source, skipped)
        except (RunError, KeyboardInterrupt, GeneratorExit):
            raise
        except Exception as error:  # one bad file must not end a run of days: count it
            skipped.add(f"the reader failed ({type(error).__name__})", f"{path}: {error}")

    return read


def _delete_previous_chunks(plan: SourcePlan, number: int, part: Part) -> None:
    for path in chunks.paths_in(plan.folder(number - 1, part.number)):
        path.unlink(missing_ok=True)
