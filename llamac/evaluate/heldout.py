"""Compute perplexity and bits per byte on the held-out text of a run, for each source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamac.evaluate.loaded_model import LoadedModel
from llamac.evaluate.log_probabilities import Progress, Scorer
from llamac.evaluate.results import TaskResult, standard_error
from llamac.evaluate.tasks.known_tasks import HELDOUT
from llamac.runtime import machine
from llamac.runtime.data.prepared import is_signed, load_manifest, token_ids
from llamac.runtime.data.sources.input_files import CONVERSATIONS
from llamac.runtime.data.token_streams import ConcatenatedStream, open_tokens
from llamac.runtime.errors import RunError
from llamac.runtime.kernels.padding import PADDING


def evaluate_heldout(
    model: LoadedModel, limit: int | None, max_tokens: int, progress: Progress
) -> list[TaskResult]:
    """Return the bits per byte, perplexity and loss of a run on each source's validation split.

    Text is split into windows of the sequence length (at most the model's context), and every token
    but a window's first is scored, as in validation during training. With supervised data, each
    document is a passage and only tokens with a loss are scored. Sources without a window or
    passage are left out.

    limit: maximum number of windows or passages per source; None means all. max_tokens: maximum
    tokens per batch, including padding. progress: called with (sequences done, all sequences); the
    count restarts for each source.

    Raises RunError for an import, and without prepared data or held-out text.
    """
    spec, run = model.directory.spec, model.directory.directory
    if model.directory.imported:
        raise RunError(
            f"{run} is an import, which has no text; task heldout needs a run with data/"
        )
    directory = machine.data_directory(spec["data"].get("directory"), run)
    manifest = load_manifest(directory)
    length = min(spec["batch"]["sequence_length"], model.context)
    scorer = Scorer(model.make, model.device, max_tokens)
    results = []
    for source in manifest["sources"]:
        passages, available = _passages(Path(directory), manifest, source, length, limit)
        if not passages:
            continue
        pairs = [pair for passage in passages for pair in passage]
        scores = iter(scorer.score(pairs, progress))
        nats = [-math.fsum(next(scores).log_probability for _ in passage) for passage in passages]
        lengths = [sum(len(answer) for _, answer in passage) for passage in passages]
        size = sum(_bytes(model, *pair) for pair in pairs)
        what = "of answers" if source["kind"] in CONVERSATIONS else f"in windows of {length}"
        note = f"{sum(lengths):,} tokens {what}"
        files = {shard["file"]: shard["sha256"] for shard in source["validation"]["shards"]}
        results.append(_result(source["name"], nats, lengths, size, available, note, files))
    if not results:
        raise RunError(
            f"no source of {directory} has {length} held-out tokens: raise data.validation"
        )
    return results


Pair = tuple[list[int], list[int]]  # (context, tokens to score)


def _passages(
    root: Path, manifest: dict[str, Any], source: dict[str, Any], length: int, limit: int | None
) -> tuple[list[list[Pair]], int]:
    """Return (pairs to score of each passage, number of passages that the source has).

    A passage is a window of text, or with supervised data a document.
    """
    tokens = open_tokens(root, manifest, source, "validation")
    if is_signed(manifest):
        stored = np.empty(len(tokens), dtype=np.int64)
        if len(stored):
            tokens.read(0, stored)
        documents = np.split(stored, np.flatnonzero(stored == PADDING) + 1)[:-1]
        passages = [_pairs_with_loss(document[: length + 1]) for document in documents[:limit]]
        return [pairs for pairs in passages if pairs], len(documents)
    stream = ConcatenatedStream(tokens, length, ring=False)
    windows = np.empty((min(stream.windows, limit or stream.windows), length + 1), dtype=np.int64)
    for number, window in enumerate(windows):
        stream.read(0, number, window)
    return [[(row[:1], row[1:])] for row in windows.tolist()], stream.windows


def _pairs_with_loss(tokens: np.ndarray) -> list[Pair]:
    """Return a pair for each run of a document's tokens with a loss."""
    ids = token_ids(tokens).tolist()
    edges = np.flatnonzero(np.diff(tokens >= 0, prepend=False, append=False)).reshape(-1, 2)
    return [(ids[:begin], ids[begin:end]) for begin, end in edges.tolist()]


def _result(
    name: str,
    nats: Sequence[float],
    lengths: Sequence[int],
    size: int,
    available: int,
    note: str,
    files: dict[str, Any],
) -> TaskResult:
    """Return the result of a source.

    nats, lengths: loss and number of tokens of each passage. size: bytes of all passages.
    available: number of passages that the source has.
    """
    tokens = sum(lengths)
    mean, mean_length = math.fsum(nats) / tokens, tokens / len(lengths)
    linearized = [
        mean + (n - mean * length) / mean_length for n, length in zip(nats, lengths, strict=True)
    ]
    error = standard_error(linearized)  # of a ratio of sums, to first order
    rate = math.fsum(nats) / math.log(2) / max(size, 1)
    perplexity = math.exp(min(mean, 700.0))
    return TaskResult(
        task=f"{HELDOUT}/{name}",
        title=name,
        shots=0,
        metric="bits_per_byte",
        results={
            "bits_per_byte": (rate, error and rate * error / mean),
            "perplexity": (perplexity, error and perplexity * error),
            "nats_per_token": (mean, error),
        },
        questions=len(nats),
        available=available,
        files=files,
        notes=(note,),
    )


def _bytes(model: LoadedModel, context: list[int], scored: list[int]) -> int:
    """Return the number of UTF-8 bytes of the scored tokens."""
    decode = model.tokenizer.decode
    return len(decode(context + scored).encode()) - len(decode(context).encode())
