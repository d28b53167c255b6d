"""[data] and [[data.source]]: text sources, their shares, and the data directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamac.spec.section import DERIVED, FromArray, NonEmpty, Section
from llamac.spec.stages import DEFAULT_STAGES, Stage
from llamac.spec.units import Bytes, Tokens
from llamac.spec.validation.errors import Problem

SLUG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of names that are safe as a directory's name on any system."""

SMALLEST_SHARE = 1e-4
"""Smallest share of a source: one sequence in the period `runtime.data.mixture.PERIOD`."""


PYTHON = ("python-docs", "python-source")
"""Kinds of sources whose text comes with Python, so that they have no `paths`."""

CONVERSATIONS = ("supervised", "preferences")
"""Kinds of sources with questions and answers; only the answers have a loss."""


class Source(Section):
    """One source of the data mixture."""

    FILES = ("tokenizer",)
    GLOBS = ("paths",)

    name: str = Field(pattern=SLUG, description="Names the source in shards, logs and errors.")
    kind: Literal[
        "python-docs",
        "python-source",
        "files",
        "commoncrawl",
        "c4",
        "github",
        "wikipedia",
        "books",
        "arxiv",
        "stackexchange",
        "tokens",
        "supervised",
        "preferences",
    ] = Field(
        description="Format of the raw text. python-docs and python-source come with every "
        "Python; files is text; supervised is chats, instructions, or prompts with completions, "
        "with a loss on the answers only; preferences is prompts with a chosen and a rejected "
        "answer, for finetune.objective; tokens is Megatron-LM's .idx with its .bin, or "
        "datatrove's .ds; the others are dumps that `llamac data prepare` cleans."
    )
    share: Annotated[float, Field(gt=0, le=1e9)] = Field(
        description="Weight in the mixture, normalised over all sources."
    )
    paths: Annotated[tuple[NonEmpty, ...], FromArray] = Field(
        default=(),
        description="Globs of the source's files. kind = files reads text, JSON, CSV and parquet, "
        "by extension, compressed or not; the other kinds read the files of their "
        "dumps.",
    )
    text_field: NonEmpty = Field(
        default="text", description="Field or column that holds the text in JSON, CSV and parquet."
    )
    tokenizer: NonEmpty | None = Field(
        default=None,
        description="Tokenizer with which the token files were made: a .model or tokenizer.json. "
        'Required for kind "tokens", whose text is decoded with it.',
    )
    max_bytes: Bytes | None = Field(
        default=None, description="Most text to read, bytes. Default: all of it."
    )
    unique_tokens: Tokens | None = Field(
        default=None,
        description="Expected tokens of the source, for planning epochs before its data is "
        "prepared.",
    )
    stage: Annotated[tuple[Stage, ...], FromArray] = Field(
        default=DERIVED,
        description="Cleaning stages, in order. Default: the paper's for the kind.",
    )

    @property
    def needs_cleaning(self) -> bool:
        """Return whether `llamac data prepare` must clean the source before training."""
        return self.kind not in (*PYTHON, *CONVERSATIONS, "files") or bool(self.stage)

    def rules(self) -> Iterator[Problem]:
        if self.kind == "tokens" and self.tokenizer is None:
            hint = 'for instance tokenizer = "llama.model"'
            yield Problem((), 'kind = "tokens" needs the `tokenizer` of its files', hint)
        if self.kind != "tokens" and self.tokenizer is not None:
            message = f'`tokenizer` has no effect with kind = "{self.kind}"'
            yield Problem(
                ("tokenizer",),
                message,
                "remove it; [tokenizer] path names the tokenizer of the run",
                at="key",
            )
        if self.kind not in PYTHON and not self.paths:
            hint = 'for instance paths = ["data/books/**/*.jsonl.zst"]'
            yield Problem(("paths",), f'kind = "{self.kind}" needs `paths`', hint)
        unused = ("text_field", "stage") if self.kind in CONVERSATIONS else ()
        for key in ("paths", "text_field", "stage") if self.kind in PYTHON else unused:
            if key in self.model_fields_set and self.is_set(key):
                message = f'`{key}` has no effect with kind = "{self.kind}"'
                yield Problem((key,), message, 'remove it, or use kind = "files"', at="key")

    def derived_values(self) -> dict[str, Any]:
        return {} if self.is_set("stage") else {"stage": DEFAULT_STAGES.get(self.kind, ())}

    def toml_values(self) -> dict[str, Any]:
        keys = super().toml_values()
        unused = ("paths", "text_field") if self.kind in PYTHON else ()
        unused = ("text_field",) if self.kind in CONVERSATIONS else unused
        unused = unused if self.needs_cleaning else (*unused, "stage")
        return {key: keys[key] for key in keys if key not in unused}


class Phase(Section):
    """Shares of the sources from a number of training tokens until the next phase."""

    at: Annotated[Tokens, Field(gt=0)] = Field(
        description="Tokens trained on before the phase begins."
    )
    shares: dict[str, Annotated[float, Field(ge=0, le=1e9)]] = Field(
        description="Weight of every source, by name; 0 leaves a source out."
    )


class Data(Section):
    """The training text: its sources, their mixture, and the directory of prepared shards."""

    FILES = ("directory",)

    source: Annotated[tuple[Source, ...], FromArray] = Field(
        min_length=1, description="The mixture: one [[data.source]] for each ingredient."
    )
    phase: Annotated[tuple[Phase, ...], FromArray] = Field(
        default=(), description="Shares that change as training goes on, in order."
    )
    directory: NonEmpty | None = Field(
        default=None,
        description="Directory of the prepared shards. Default: data/ in the run directory.",
    )
    validation: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.01, description="Fraction of the documents held out for validation."
    )
    packing: Literal["concatenate", "best_fit", "pairs"] = Field(
        default=DERIVED,
        description="concatenate: sequences are consecutive windows of a source's documents, as "
        "in the paper. best_fit: sequences hold whole documents, none cropped. "
        "pairs: a preference is two sequences, each followed by padding. "
        "Default: concatenate; best_fit with supervised sources, pairs with preferences.",
    )
    document_mask: bool = Field(
        default=DERIVED,
        description="Restrict attention to the token's own document. Off, as in the paper: "
        "attention crosses document boundaries within a sequence. Default: on with supervised "
        "sources, else off.",
    )
    shard_tokens: Tokens = Field(
        default=64_000_000, description="Tokens in one prepared shard file."
    )

    @property
    def supervised(self) -> bool:
        """Return whether any source has conversations or preferences.

        Only their answers have a loss.
        """
        return any(source.kind in CONVERSATIONS for source in self.source)

    @property
    def has_preferences(self) -> bool:
        """Return whether a source has preferences: pairs of a chosen and a rejected answer."""
        return any(source.kind == "preferences" for source in self.source)

    def derived_values(self) -> dict[str, Any]:
        packing = "best_fit" if self.supervised else "concatenate"
        usual = {"packing": "pairs" if self.has_preferences else packing}
        usual |= {"document_mask": self.supervised and not self.has_preferences}
        return {key: value for key, value in usual.items() if not self.is_set(key)}

    def rules(self) -> Iterator[Problem]:
        first: dict[str, int] = {}
        if self.supervised and self.packing == "concatenate":
            message = 'packing = "concatenate" would separate answers from their questions'
            yield Problem(("packing",), message, 'use packing = "best_fit", or leave it out')
        if self.is_set("packing") and (self.packing == "pairs") != self.has_preferences:
            message = f'packing = "{self.packing}", but preferences are packed in pairs'
            yield Problem(("packing",), message, "leave it out; it follows from the sources")
        if self.has_preferences and self.document_mask:
            message = "document_mask = true has no effect on pairs, each a sequence of its own"
            yield Problem(("document_mask",), message, "leave it out")
        if self.has_preferences and self.phase:
            message = "the shares of preferences cannot change in phases"
            yield Problem(("phase",), message, "remove [[data.phase]]")
        for index, source in enumerate(self.source):
            if self.has_preferences and source.kind != "preferences":
                message = f'kind = "{source.kind}" cannot be mixed with preferences'
                yield Problem(("source", index, "kind"), message, "train on it in a run before")
            # Shards are directories, and some file systems do not tell case apart.
            if first.setdefault(source.name.lower(), index) != index:
                message = f'two sources are named "{source.name}"'
                yield Problem(("source", index, "name"), message, "give each source its own name")
        total = sum(source.share for source in self.source)
        for index, source in enumerate(self.source):
            if source.share / total < SMALLEST_SHARE:
                message = f"share = {source.share:g} is less than 1/10,000 of the mixture"
                yield Problem(("source", index, "share"), message, "remove the source")
        for index, phase in enumerate(self.phase):
            yield from self._phase_rules(index, phase)

    def _phase_rules(self, index: int, phase: Phase) -> Iterator[Problem]:
        names, place = {source.name for source in self.source}, ("phase", index, "shares")
        known = f"the sources are {', '.join(sorted(names))}"
        for name in sorted(phase.shares.keys() - names):
            yield Problem((*place, name), f"no source is named {name!r}", known, at="key")
        if missing := sorted(names - phase.shares.keys()):
            message = f"the phase gives no share for {', '.join(missing)}"
            yield Problem(place, message, "name every source; 0 leaves one out", at="key")
        total = sum(phase.shares.values())
        if not total:
            yield Problem(
                place, "every share is 0", "give at least one source a positive share", at="key"
            )
        for name, share in phase.shares.items():
            if 0 < share < SMALLEST_SHARE * total:
                message = f"share = {share:g} is less than 1/10,000 of the mixture"
                yield Problem((*place, name), message, "set it to 0 to leave the source out")
        if index and phase.at <= self.phase[index - 1].at:
            message = f"at = {phase.at} is not after the start of the previous phase"
            yield Problem(("phase", index, "at"), message, "order the phases by `at`")
