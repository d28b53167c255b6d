"""Train the models of the `quality` and `perplexity` stages: `llamac data classifier`.

`quality` is a classifier of pages that Wikipedia cites against the same number of random other
pages; both have passed the filters before the stage and its minimum length. `perplexity` is an
n-gram language model of the Wikipedia source, in the languages that the source keeps.
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamac.data.readers import validated_inputs
from llamac.data.stages import StageError, quality
from llamac.data.stages.common import arrays, ngram_model
from llamac.data.stages.common.words import Hashes, hash_texts
from llamac.data.streaming import apply_filters, filters, stream_documents
from llamac.runtime.durable_files import write_json
from llamac.spec.data import Data, Source
from llamac.spec.stages import Language, Perplexity, Quality

MIN_PAGES = 20
"""Minimum number of cited pages to train a classifier on."""

HELD_OUT = 10  # one page in this many is held out for evaluation

Log = Callable[[str], None]
"""Function that is called with each line of progress."""


def train_models(data: Data, log: Log = print) -> dict[str, dict[str, Any]]:
    """Train and write the models of all `perplexity` and `quality` stages.

    Returns training reports by model path; each is also written as JSON beside its model.
    log: called with each line of progress. Raises StageError if no source has such a stage, or its
    reference source is missing or too small.
    """
    reports: dict[str, dict[str, Any]] = {}
    for source in data.source:
        for number, stage in enumerate(source.stage):
            if not isinstance(stage, Perplexity | Quality):
                continue
            reference = _reference(data, source, stage)
            path = Path(stage.model)
            path.parent.mkdir(parents=True, exist_ok=True)
            log(f"{source.name}: {stage.stage} from {reference.name}")
            if isinstance(stage, Perplexity):
                report = _language_model(source, stage, reference, path)
            else:
                report = _classifier(source, number, reference, path)
            write_json(path.with_name(path.name + ".json"), report)
            reports[stage.model] = report
    if not reports:
        raise StageError(
            "no source has a stage that needs a trained model (`perplexity` or `quality`)"
        )
    return reports


def report_line(report: dict[str, Any]) -> str:
    """Format a training report of `train_models` as one line of text."""
    if "order" in report:
        return (
            f"  {report['model']}: {report['order']}-grams of {report['documents']:,} documents, "
            f"{report['characters']:,} characters"
        )
    figures = ", ".join(
        f"{name} {'-' if report[key] is None else format(report[key], '.2f')}"
        for name, key in (("precision", "precision"), ("recall", "recall"), ("ROC area", "auc"))
    )
    return (
        f"  {report['model']}: {report['pages_cited']:,} pages are cited, "
        f"{report['pages_not_cited']:,} are not; trained on {report['trained_on']:,}; of "
        f"{report['held_out']:,} held out, at {report['threshold']:g}: {figures}"
    )


def _reference(data: Data, source: Source, stage: Perplexity | Quality) -> Source:
    where = f"{source.name}: {stage.stage}"
    if stage.reference is not None:
        candidates = [other for other in data.source if other.name == stage.reference]
        if not candidates:
            raise StageError(f"{where}: unknown source `{stage.reference}` in `reference`")
    else:
        candidates = [other for other in data.source if other.kind == "wikipedia"]
        if not candidates:
            hint = "add one, or name a source with `reference`"
            raise StageError(f"{where}: needs a source of kind wikipedia to train on; {hint}")
    if isinstance(stage, Quality) and candidates[0].kind != "wikipedia":
        raise StageError(f"{where}: `reference` = {candidates[0].name!r} is not of kind wikipedia")
    return candidates[0]


# --- The language model --------------------------------------------------------------------


def _language_model(
    source: Source, stage: Perplexity, reference: Source, path: Path
) -> dict[str, Any]:
    languages = {
        language
        for other in source.stage
        if isinstance(other, Language)
        for language in other.languages
    }
    counts = {"documents": 0, "characters": 0}

    def texts() -> Iterator[str]:
        for document in stream_documents(reference):
            language = document.meta.get("language")
            if languages and language is not None and language not in languages:
                continue
            counts["documents"] += 1
            counts["characters"] += len(document.text)
            yield document.text

    try:
        model = ngram_model.train(texts(), stage.order, stage.max_words)
    except ValueError as error:
        raise StageError(f"{source.name}: perplexity: {reference.name}: {error}") from None
    arrays.save(path, model)
    return {"model": str(path), "reference": reference.name, "order": stage.order, **counts}


# --- The classifier ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    key: int
    length: int
    features: quality.Features
    cited: bool


@dataclass
class _Sample:
    """Uniform sample of pages: the `size` distinct pages with the lowest hashes, in any order."""

    size: int
    largest: list[int] = field(default_factory=list)
    lowest: dict[int, tuple[int, quality.Features]] = field(default_factory=dict)
    offered: int = 0

    def offer(self, key: int, length: int, page: quality.Features) -> None:
        self.offered += 1
        if key in self.lowest:  # a duplicate text
            return
        if len(self.lowest) < self.size:
            heapq.heappush(self.largest, -key)
        elif key < -self.largest[0]:
            del self.lowest[-heapq.heapreplace(self.largest, -key)]
        else:
            return
        self.lowest[key] = length, page

    def pages(self, count: int, label: bool) -> list[_Page]:
        return [_Page(key, *self.lowest[key], label) for key in sorted(self.lowest)[:count]]


def _classifier(source: Source, number: int, reference: Source, path: Path) -> dict[str, Any]:
    stage = source.stage[number]
    assert isinstance(stage, Quality)
    cited = _citations(reference)
    positives, negatives = _Sample(stage.max_pages), _Sample(stage.max_pages)
    for page in apply_filters(stream_documents(source), filters(source, number)):
        if len(page.text) < stage.min_chars:
            continue
        url = str(page.meta.get("url") or "")
        key = int(hash_texts([page.text.encode()])[0])
        address = hash_texts([address_of(url).encode()])[0] if url else None
        sample = positives if address is not None and _contains(cited, address) else negatives
        sample.offer(key, len(page.text), quality.features(page.text, stage.buckets))
    count = min(len(positives.lowest), len(negatives.lowest))
    if count < MIN_PAGES:
        raise StageError(
            f"{source.name}: quality: {reference.name} cites {len(cited)} addresses; "
            f"{positives.offered} pages of the crawl are cited and {negatives.offered} are not, "
            f"but at least {MIN_PAGES} of each are needed"
        )
    pages = positives.pages(count, True) + negatives.pages(count, False)
    report = _held_out(pages, stage)
    model = _train(pages, stage)
    quality.save(model, path)
    return {
        "model": str(path),
        "reference": reference.name,
        "addresses_cited": len(cited),
        "pages_cited": positives.offered,
        "pages_not_cited": negatives.offered,
        **report,
    }


def _train(pages: list[_Page], stage: Quality) -> quality.QualityModel:
    return quality.train(
        [page.features for page in pages], [page.cited for page in pages], stage.buckets
    )


def _held_out(pages: list[_Page], stage: Quality) -> dict[str, Any]:
    """Evaluate a model on held-out pages; return its counts and scores."""
    evaluation_pages = [page for page in pages if page.key % HELD_OUT == 0]
    training_pages = [page for page in pages if page.key % HELD_OUT]
    model = _train(training_pages, stage)
    scores = np.array([model.probability(page.features) for page in evaluation_pages])
    truth = np.array([page.cited for page in evaluation_pages], bool)
    lengths = {
        name: float(np.median([page.length for page in pages if page.cited is cited]))
        for name, cited in (("cited", True), ("random", False))
    }
    return {
        "trained_on": len(training_pages),
        "held_out": len(evaluation_pages),
        "threshold": stage.threshold,
        **classifier_metrics(scores, truth, stage.threshold),
        "median_characters": lengths,
    }


def classifier_metrics(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], threshold: float
) -> dict[str, float | None]:
    """Return `precision` and `recall` at `threshold`, and `auc`, the area under the ROC curve.

    scores: predicted probabilities, float [n]. truth: labels, bool [n]. A metric is None where it
    is undefined.
    """
    predicted = scores >= threshold
    true_positives = int((predicted & truth).sum())
    margins = scores[truth][:, None] - scores[~truth][None, :]
    return {
        "precision": true_positives / int(predicted.sum()) if predicted.any() else None,
        "recall": true_positives / int(truth.sum()) if truth.any() else None,
        "auc": float((margins > 0).mean() + (margins == 0).mean() / 2) if margins.size else None,
    }


def address_of(url: str) -> str:
    """Normalise a URL for comparison: `http://www.A.org:80/b/#c` becomes `a.org/b`.

    Scheme, `www.`, port 80 or 443, fragment and final slashes are dropped, and the host is in lower
    case.
    """
    address = url.strip().split("#")[0]
    scheme, separator, rest = address.partition("://")
    address = rest if separator else scheme
    host, slash, path = address.partition("/")
    host = host.lower().removeprefix("www.").removesuffix(":80").removesuffix(":443")
    return (host + slash + path).rstrip("/")


def _citations(reference: Source) -> Hashes:
    """Return the sorted distinct hashes of the addresses that the reference's dumps cite."""
    references = importlib.import_module("llamac.data.readers.wikipedia").references
    hashes = [np.empty(0, np.uint64)]
    for path in validated_inputs(reference):
        hashes.append(hash_texts([address_of(url).encode() for url in references(path)]))
    return np.unique(np.concatenate(hashes))


def _contains(hashes: Hashes, value: np.uint64) -> bool:
    at = int(np.searchsorted(hashes, value))
    return at < len(hashes) and hashes[at] == value
