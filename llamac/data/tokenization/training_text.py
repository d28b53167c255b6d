"""Sample the tokenizer's training text from each source's cleaned text, by its share.

In all functions, `work` is the folder of the tokenising steps' intermediate files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llamac.data import chunks
from llamac.data.clean import chunks_of, require_text, step_counts
from llamac.data.source_plan import Part, SourcePlan
from llamac.data.state import folder_lock
from llamac.runtime.data.prepare_job import PrepareJob
from llamac.runtime.data.vocabulary import has_saved_tokenizer, load_or_make_tokenizer
from llamac.runtime.durable_files import is_undamaged, read_note_or_empty, write, write_note
from llamac.runtime.tokenizers.tokenizer import (
    Tokenizer,
    sample_lines,
    train_tokenizer,
    training_lines,
)


def count_text(work: Path, plan: SourcePlan) -> None:
    """Record the bytes of cleaned text of each part, which determine the sample sizes."""
    sizes = [step_counts(plan, part)[-1].left[1] for part in plan.parts]
    path = _counts_path(work, plan)
    with folder_lock(path.parent):
        write_note(path, {"bytes": sizes})


def is_counted(work: Path, plan: SourcePlan) -> bool:
    """Return whether `count_text` has recorded the source."""
    return bool(read_note_or_empty(_counts_path(work, plan)))


def draw_lines(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> None:
    """Sample a part's lines for training the tokenizer and write them to a file under `work`.

    The sample has `train_bytes` times the source's share times the part's share of its text, which
    `count_text` has recorded, or the whole text if that is less. It is drawn by the spec's seed,
    without held-out documents. An undamaged file is kept.
    """
    path = _lines_path(work, plan, part)
    sizes = read_note_or_empty(_counts_path(work, plan))["bytes"]
    share = next(
        s for x, s in zip(job.sources, job.shares, strict=True) if x["name"] == _name(plan)
    )
    line_bytes = int(job.tokenizer["train_bytes"] * share)
    budget = min(line_bytes, sum(sizes)) * sizes[part.number] // max(sum(sizes), 1)
    with folder_lock(path.with_name(f"{path.name}.draw")):
        if not is_undamaged(path):
            documents = chunks.read_all(chunks_of(plan, part))
            texts = (d.text for d in documents if not job.is_held_out(d.text.encode()))
            lines = training_lines(
                sample_lines(texts, budget, f"{job.seed}\0{_name(plan)}\0{part.number}")
            )
            write(path, "".join(f"{line}\n" for line in lines).encode(), sealed=True)


def is_drawn(job: PrepareJob, work: Path, plan: SourcePlan, part: Part) -> bool:
    """Return whether the lines that `draw_lines` writes for the part exist undamaged."""
    return is_undamaged(_lines_path(work, plan, part))


def choose_tokenizer(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> None:
    """Write tokenizer.model: the spec's tokenizer, or one trained on the sampled lines.

    One that was written with the same settings is kept. Raises SourceError, before anything is
    tokenised, if a source has no text left.
    """
    for plan in plans:
        require_text(plan)

    def train(job: PrepareJob) -> Tokenizer:
        paths = (_lines_path(work, plan, part) for plan in plans for part in plan.parts)
        kind = job.tokenizer["kind"]
        return train_tokenizer(_lines(paths), kind=kind, vocab_size=job.vocab_size)

    with folder_lock(work):
        load_or_make_tokenizer(job, _key(work), train)


def has_tokenizer(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> bool:
    """Return whether tokenizer.model is undamaged and belongs to the recorded settings."""
    return has_saved_tokenizer(job, _key(work))


def _lines(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")


def _key(work: Path) -> str:
    """Return the hash of the settings that this tokenizer belongs to."""
    return read_note_or_empty(work / "plan.json").get("key", "")


def _name(plan: SourcePlan) -> str:
    return plan.source.name


def _counts_path(work: Path, plan: SourcePlan) -> Path:
    return work / _name(plan) / "text.json"


def _lines_path(work: Path, plan: SourcePlan, part: Part) -> Path:
    return work / _name(plan) / f"{part.number:05}.lines"
