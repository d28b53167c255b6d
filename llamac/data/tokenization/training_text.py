"""Draw the tokenizer's training text: a sample of each source's cleaned text, by its share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llamac.data import chunks
from llamac.data.clean import chunks_of, require_text, rows_of
from llamac.data.source_plan import Part, SourcePlan
from llamac.data.state import locked
from llamac.runtime.data.prepare_job import PrepareJob
from llamac.runtime.data.vocabulary import is_settled, tokenizer_of
from llamac.runtime.durable_files import is_whole, note_or_nothing, write, write_note
from llamac.runtime.tokenizers.tokenizer import (
    Tokenizer,
    sample_lines,
    train_tokenizer,
    training_lines,
)


def count_text(work: Path, plan: SourcePlan) -> None:
    """Record the bytes of cleaned text of each part; sample sizes depend on all of them."""
    sizes = [rows_of(plan, part)[-1].left[1] for part in plan.parts]
    path = _counts(work, plan)
    with locked(path.parent):
        write_note(path, {"bytes": sizes})


def is_counted(work: Path, plan: SourcePlan) -> bool:
    return bool(note_or_nothing(_counts(work, plan)))


def draw_lines(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> None:
    """Write a part's training lines, in proportion to its share of the source's text."""
    path = _drawn(work, plan, part)
    sizes = note_or_nothing(_counts(work, plan))["bytes"]
    share = next(
        s for x, s in zip(job.sources, job.shares, strict=True) if x["name"] == _name(plan)
    )
    line_bytes = int(job.tokenizer["train_bytes"] * share)
    budget = min(line_bytes, sum(sizes)) * sizes[part.number] // max(sum(sizes), 1)
    with locked(path.with_name(f"{path.name}.draw")):
        if not is_whole(path):
            documents = chunks.read_all(chunks_of(plan, part))
            texts = (d.text for d in documents if not job.is_held_out(d.text.encode()))
            lines = training_lines(
                sample_lines(texts, budget, f"{job.seed}\0{_name(plan)}\0{part.number}")
            )
            write(path, "".join(f"{line}\n" for line in lines).encode(), sealed=True)


def is_drawn(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> bool:
    return is_whole(_drawn(work, plan, part))


def settle_tokenizer(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> None:
    """Write tokenizer.model: the given one, or one trained on the drawn lines.

    Raises SourceError, before anything is tokenised, if a source has no text left.
    """
    for plan in plans:
        require_text(plan)

    def train(job: PrepareJob) -> Tokenizer:
        drawn = (_drawn(work, plan, part) for plan in plans for part in plan.parts)
        kind = job.tokenizer["kind"]
        return train_tokenizer(_lines(drawn), kind=kind, vocab_size=job.vocab_size)

    with locked(work):
        tokenizer_of(job, _key(work), train)


def has_tokenizer(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> bool:
    return is_settled(job, _key(work))


def _lines(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")


def _key(work: Path) -> str:
    """Return the hash of the settings that this tokenizer belongs to."""
    return note_or_nothing(work / "plan.json").get("key", "")


def _name(plan: SourcePlan) -> str:
    return plan.source.name


def _counts(work: Path, plan: SourcePlan) -> Path:
    return work / _name(plan) / "text.json"


def _drawn(work: Path, plan: SourcePlan, part: Part) -> Path:
    return work / _name(plan) / f"{part.number:05}.lines"
