"""Plan the work on a source: parts of its input, and passes over their text.

The plan follows from the spec and the files alone, so every process on every machine computes the
same one. A part is a group of consecutive inputs of about `PART_BYTES`; files are not split, since
few formats can be read from the middle. A pass begins with the reader or with the decision of a
survey, and includes the filters that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamac.data.readers import validated_inputs
from llamac.runtime.data.answer_tokens import Supervision
from llamac.runtime.data.data_settings import source_settings
from llamac.runtime.data.sources.input_files import PYTHON, input_bytes, listing_of
from llamac.spec.data import Source

PART_BYTES = 256 << 20  # bytes on disk of a part's inputs
# Maximum number of parts: a survey's merge and a training run map one file per part.
MAX_PARTS = 2048
CHUNK_BYTES = 8 << 20  # bytes of text in a chunk: the most work lost when a process is killed


@dataclass(frozen=True)
class PartSizes:
    """Target sizes of parts and chunks, in bytes; they do not affect the documents.

    part: size on disk of its inputs. chunk: uncompressed size of the stored documents.
    """

    part: int = PART_BYTES
    chunk: int = CHUNK_BYTES


DEFAULT_SIZES = PartSizes()


@dataclass(frozen=True)
class Part:
    """Group of a source's inputs, the unit of parallel work.

    number: index of the part in the plan. inputs: files, or directories for kinds that read trees.
    bytes: size on disk. max_text_bytes: maximum bytes of text to read from the part; None for no
    limit.
    """

    number: int
    inputs: tuple[str, ...]
    bytes: int
    max_text_bytes: int | None = None


@dataclass(frozen=True)
class CleaningPass:
    """Pass over the text of each part of a source.

    number: index of the pass. survey: index of the stage whose decision is applied first; None for
    the first pass, which begins with the reader. filters: indices of the stages that follow.
    """

    number: int
    survey: int | None
    filters: tuple[int, ...]


@dataclass(frozen=True)
class SourcePlan:
    """Parts and cleaning passes of one source, and the folders of its intermediate text.

    work: folder of the intermediate text. chunk_bytes: target size of a chunk of documents. inputs:
    fingerprint of all input files. supervision: how to tokenise conversations; None for other
    sources.
    """

    source: Source
    work: Path
    chunk_bytes: int
    passes: tuple[CleaningPass, ...]
    parts: tuple[Part, ...]
    inputs: dict[str, Any]
    supervision: Supervision | None = None

    def folder(self, number: int, part: int) -> Path:
        """Return the folder of the chunks that pass `number` writes for a part."""
        return self.work / f"pass-{number}" / f"{part:05}"

    def only(self, part: Part) -> SourcePlan:
        """Return the plan reduced to one part, for a job, without the fingerprint of all files."""
        return replace(self, parts=(part,), inputs={})

    @property
    def last(self) -> int:
        """Return the index of the last pass."""
        return len(self.passes) - 1

    def findings_path(self, number: int, part: int) -> Path:
        """Return the path of a part's findings for the survey that pass `number` begins with."""
        return self.work / f"pass-{number}" / "found" / f"{part:05}"

    def decision_path(self, number: int) -> Path:
        """Return the path of the decision of the survey that pass `number` begins with."""
        return self.work / f"pass-{number}" / "decided"


def plan_source(
    source: Source,
    work: Path,
    sizes: PartSizes = DEFAULT_SIZES,
    supervision: Supervision | None = None,
) -> SourcePlan:
    """Divide a source's inputs into parts and its stages into passes.

    work: folder for the intermediate text. sizes: target bytes of parts and chunks.
    supervision: for sources of conversations only.
    Raises StageError if a stage lacks a file or package; SourceError if inputs are missing, lack a
    needed field or need a missing package.
    """
    parts, listing = _parts(source, sizes.part)
    passes = tuple(_passes(source))
    return SourcePlan(source, work, sizes.chunk, passes, parts, listing, supervision)


def settings_of_source(plan: SourcePlan) -> dict[str, Any]:
    """Return all settings that the cleaned text depends on, with keys named as in the spec.

    They include the input files, the models of the stages and the sizes of parts and chunks.
    """
    from llamac.data.readers.tokens import source_tokenizer
    from llamac.data.stages import facts

    prefix = f"data.source.{plan.source.name}"
    settings = source_settings(plan.source.toml_values())
    settings |= {f"{prefix}.paths: the files": plan.inputs} if plan.inputs else {}
    if plan.source.kind == "tokens":
        pieces = source_tokenizer(plan.source).pieces_sha256
        settings[f"{prefix}.tokenizer: the pieces"] = pieces
    if plan.supervision:
        settings[f"{prefix}: the context"] = plan.supervision.context
        settings[f"{prefix}: the chat template"] = plan.supervision.encoder.chat.written()
        settings[f"{prefix}: the tokenizer"] = plan.supervision.encoder.model.pieces_sha256
    for number, stage in enumerate(plan.source.stage):
        for key, value in facts(stage, plan.source).items():
            settings[f"{prefix}.stage.{number}.{stage.stage}: {key}"] = value
    return settings | {f"{prefix}: parts": [len(plan.parts), plan.chunk_bytes]}


def _passes(source: Source) -> Iterator[CleaningPass]:
    from llamac.data.stages import build

    number, survey, filters = 0, None, []
    for index, stage in enumerate(source.stage):
        if hasattr(build(stage, source), "scan"):
            yield CleaningPass(number, survey, tuple(filters))
            number, survey, filters = number + 1, index, []
        else:
            filters.append(index)
    yield CleaningPass(number, survey, tuple(filters))


def _parts(source: Source, part_bytes: int) -> tuple[tuple[Part, ...], dict[str, Any]]:
    if source.kind in PYTHON:
        return (Part(0, (source.kind,), 0, source.max_bytes),), {}
    sizes = [(path, input_bytes(path)) for path in validated_inputs(source)]
    total = sum(size for _, size in sizes)
    groups = list(_groups(sizes, max(part_bytes, -(-total // MAX_PARTS))))
    return tuple(
        Part(number, tuple(path for path, _ in group), size, _share(source.max_bytes, size, total))
        for number, group in enumerate(groups)
        for size in (sum(size for _, size in group),)
    ), listing_of(sizes)


def _groups(sizes: list[tuple[str, int]], max_bytes: int) -> Iterator[list[tuple[str, int]]]:
    group: list[tuple[str, int]] = []
    nbytes = 0
    for path, size in sizes:
        if group and nbytes + size > max_bytes:
            yield group
            group, nbytes = [], 0
        group.append((path, size))
        nbytes += size
    yield group


def _share(max_bytes: int | None, size: int, total: int) -> int | None:
    """Return a part's portion of `max_bytes`, proportional to its input size, in bytes."""
    return None if max_bytes is None else -(-max_bytes * size // max(total, 1))
