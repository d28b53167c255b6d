"""A pass over a part: documents in, chunks of documents out, at every chunk a place to go on from.

What was written when a process died is written again, byte for byte: where chunks end, and what
is counted and sampled, depends on the documents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamac.data import chunks, funnel
from llamac.data.document import Document, Filter, Rejected
from llamac.data.funnel import Row
from llamac.data.plan import Part, Pass, SourcePlan
from llamac.data.readers import reader_for
from llamac.data.stages import build
from llamac.data.state import locked
from llamac.runtime.data.input_files import PYTHON
from llamac.runtime.data.skipped import EXAMPLES, Skipped
from llamac.runtime.data.sources import documents
from llamac.runtime.durable import note_or_nothing, write_note
from llamac.runtime.errors import RunError, SourceError
from llamac.spec.data import Source

STATE = "state.json"
INPUT_PER_CHUNK = 16  # a chunk also ends after this many times its size has been looked at


def clean(plan: SourcePlan, number: int, part: Part) -> None:
    """Runs a pass over a part, from where it was left. Afterwards the text that the pass before
    gave it is no longer needed, and deleted."""
    folder = plan.folder(number, part.number)
    with locked(folder):
        state = _State.load(folder)
        if not state.done:
            _go_on(plan, plan.passes[number], part, state)
        if number:
            _drop(plan, number, part)


def is_clean(plan: SourcePlan, number: int, part: Part) -> bool:
    left = number and chunks.paths_in(plan.folder(number - 1, part.number))
    return not left and _State.load(plan.folder(number, part.number)).done


def rows_of(plan: SourcePlan, part: Part) -> list[Row]:
    """What has become of a part until now, step by step."""
    states = [_State.load(plan.folder(step.number, part.number)) for step in plan.passes]
    return [row for state in states for row in state.rows]


def funnel_of(plan: SourcePlan) -> list[Row]:
    """What has become of a source until now."""
    return funnel.total([rows_of(plan, part) for part in plan.parts])


def require_text(plan: SourcePlan) -> None:
    """SourceError if cleaning has left nothing of a source, with the reasons."""
    rows = funnel_of(plan)
    if rows[-1].left[0]:
        return
    reasons = {f"{row.name}: {why}": n for row in rows for why, (n, _) in row.rejected.items()}
    most = sorted(reasons.items(), key=lambda item: -item[1])[:5]
    why = ", ".join(f"{count} × {reason}" for reason, count in most) or "its files are empty"
    raise SourceError(
        f"source {plan.source.name!r} has no document left to train on ({why}): see "
        "`llamac data stats --samples`"
    )


def skipped_in(plan: SourcePlan, part: Part) -> list[str]:
    """Examples of what the reader of a part left out."""
    return _State.load(plan.folder(0, part.number)).skipped


def text_of(plan: SourcePlan, part: Part, number: int | None = None) -> list[chunks.Saved]:
    """The chunks that a pass, or the last one, made of a part."""
    folder = plan.folder(plan.last if number is None else number, part.number)
    hashes = _State.load(folder).chunks
    return [chunks.Saved(chunks.path_of(folder, i), sha256) for i, sha256 in enumerate(hashes)]


@dataclass
class _State:
    """chunks: the hashes of those that are written. input, document: how many inputs were read
    whole, and how many documents of the one after them. read: bytes of text of a part so far."""

    folder: Path
    rows: list[Row]
    skipped: list[str]
    chunks: list[str] = field(default_factory=list)
    input: int = 0
    document: int = 0
    read: int = 0
    done: bool = False

    @classmethod
    def load(cls, folder: Path) -> _State:
        saved = note_or_nothing(folder / STATE)
        saved.pop("sha256", None)
        rows = funnel.from_json(saved.pop("rows", []))
        return cls(folder=folder, rows=rows, **{"skipped": [], **saved})

    def save(self) -> None:
        values = {key: value for key, value in vars(self).items() if key not in ("folder", "rows")}
        write_note(self.folder / STATE, values | {"rows": funnel.to_json(self.rows)})


def _go_on(plan: SourcePlan, step: Pass, part: Part, state: _State) -> None:
    source, limit = plan.source, part.most if step.number == 0 else None
    stages = [source.stage[i] for i in step.filters]
    filters = [_filter(build(stage, source)) for stage in stages]
    if step.survey is not None:
        survey: Any = build(source.stage[step.survey], source)
        first = [source.stage[step.survey]]
        judge = _filter(survey.judge(plan.decided(step.number), part.number))
        stages, filters = [*first, *stages], [judge, *filters]
    else:
        judge = None
    if not state.rows:
        reader = [] if step.number else [Row("read")]
        state.rows = [*reader, *(Row(stage.stage) for stage in stages)]
    chunk, looked_at = chunks.Chunk(chunks.path_of(state.folder, len(state.chunks))), 0
    inputs, begun = _inputs(plan, step, part), (state.input, state.document)
    for index, read in enumerate(inputs):
        if index < state.input and judge is None:
            continue  # a judge must be given every document of the part, in order
        skipped = Skipped()
        for count, document in enumerate(read(skipped)):
            if (index, count) < begun:
                if judge is not None:
                    judge(document)
                continue
            if limit is not None and state.read >= limit:
                break
            size = len(document.text.encode())
            state.read += size
            looked_at += size
            kept = _through(document, size, state.rows, filters, reads=step.number == 0)
            if kept is not None:
                chunk.add(kept)
            if chunk.bytes >= plan.chunk_bytes or looked_at >= INPUT_PER_CHUNK * plan.chunk_bytes:
                state.input, state.document = index, count + 1
                chunk, looked_at = _commit(state, chunk), 0
        if index >= begun[0] and step.number == 0:
            _count_input(state, part, skipped)
        if index >= begun[0]:
            state.input, state.document = index + 1, 0
    state.rows[0].entered = state.rows[0].entered if step.number else [len(inputs), part.bytes]
    state.done = True
    _commit(state, chunk)


def _commit(state: _State, chunk: chunks.Chunk) -> chunks.Chunk:
    """First the chunk, then the note that there is one: in between, it would be written again."""
    state.chunks += chunk.close()
    state.save()
    return chunks.Chunk(chunks.path_of(state.folder, len(state.chunks)))


def _through(
    document: Document, size: int, rows: list[Row], filters: list[Filter], reads: bool
) -> Document | None:
    """The document that is left, if one is, counted on its way."""
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


def _filter(judge: Any) -> Filter:
    """A filter that stops at no document: one it cannot judge is rejected, and counted."""

    def judged(document: Document) -> Document | Rejected:
        try:
            return judge(document)
        except (RunError, KeyboardInterrupt):
            raise
        except Exception as error:
            return Rejected("the stage failed", f"{type(error).__name__}: {error}")

    return judged


def _count_input(state: _State, part: Part, skipped: Skipped) -> None:
    for reason, count in sorted(skipped.counts.items()):
        amount = state.rows[0].rejected.setdefault(reason, [0, 0])
        amount[0] += count
    room = EXAMPLES - len(state.skipped)
    state.skipped += [funnel.printable(example) for example in skipped.examples[:room]]


Read = Callable[[Skipped], Iterator[Document]]


def _inputs(plan: SourcePlan, step: Pass, part: Part) -> list[Read]:
    """The documents of each input of a pass: a file of the dump, or a chunk."""
    if step.number == 0:
        return [_reads(plan.source, path) for path in part.inputs]
    before = text_of(plan, part, step.number - 1)
    return [lambda _, chunk=chunk: chunks.read(chunk) for chunk in before]


def _reads(source: Source, path: str) -> Read:
    def read(skipped: Skipped) -> Iterator[Document]:
        if source.kind in PYTHON:
            texts = documents(source.written(), skipped)
            yield from (Document(text, source.kind, n) for n, text in enumerate(texts, 1))
            return
        try:
            yield from reader_for(source.kind)(path, source, skipped)
        except (RunError, KeyboardInterrupt, GeneratorExit):
            raise
        except Exception as error:  # no file of a dump may end a run of days; it is counted
            skipped.add(f"the reader failed ({type(error).__name__})", f"{path}: {error}")

    return read


def _drop(plan: SourcePlan, number: int, part: Part) -> None:
    for path in chunks.paths_in(plan.folder(number - 1, part.number)):
        path.unlink(missing_ok=True)
