"""Perplexity and bits per byte on the held-out text of a run, source by source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamac.evaluate.opened_model import OpenedModel
from llamac.evaluate.results import TaskResult, standard_error
from llamac.evaluate.scorer import Progress, Scorer
from llamac.evaluate.tasks.known_tasks import HELDOUT
from llamac.runtime import machine
from llamac.runtime.data.prepared import load_manifest
from llamac.runtime.data.token_streams import open_stream
from llamac.runtime.errors import RunError


def judge_heldout(
    model: OpenedModel, limit: int | None, most_tokens: int, progress: Progress
) -> list[TaskResult]:
    """Score each source's validation split in windows of the run's sequence length.

    limit: windows per source. Each token but a window's first is predicted from the previous ones
    in the window, as in validation during training. Raises RunError without prepared data.
    """
    spec, run = model.directory.spec, model.directory.directory
    if model.directory.imported:
        raise RunError(
            f"{run} is an import, which has no text; task heldout needs a run with data/"
        )
    directory = machine.data_directory(spec["data"].get("directory"), run)
    manifest = load_manifest(directory)
    length = min(spec["batch"]["sequence_length"], model.context)
    scorer = Scorer(model.make, model.device, most_tokens)
    results = []
    for source in manifest["sources"]:
        stream = open_stream(Path(directory), manifest, source, "validation", length, "concatenate")
        count = min(stream.windows, limit or stream.windows)
        if count < 1:
            continue
        windows = np.empty((count, length + 1), dtype=np.int64)
        for number, window in enumerate(windows):
            stream.read(0, number, window)
        pairs = [(row[:1], row[1:]) for row in windows.tolist()]
        values = [-one.log_probability for one in scorer.score(pairs, progress)]
        sizes = [_bytes(model, row) for row in windows.tolist()]
        files = {one["file"]: one["sha256"] for one in source["validation"]["shards"]}
        results.append(_result(source["name"], values, sizes, length, stream.windows, files))
    if not results:
        raise RunError(
            f"no source of {directory} has {length} held-out tokens: raise data.validation"
        )
    return results


def _result(
    name: str,
    nats: Sequence[float],
    sizes: Sequence[int],
    length: int,
    windows: int,
    files: dict[str, Any],
) -> TaskResult:
    per_token = [value / length for value in nats]
    error = standard_error(per_token)
    mean, tokens = math.fsum(per_token) / len(per_token), len(nats) * length
    rate = math.fsum(nats) / math.log(2) / max(sum(sizes), 1)
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
        of=windows,
        files=files,
        notes=(f"{tokens:,} tokens in windows of {length}",),
    )


def _bytes(model: OpenedModel, window: Sequence[int]) -> int:
    """Return the number of UTF-8 bytes of a window's predicted tokens."""
    decode = model.tokenizer.decode
    return len(decode(window).encode()) - len(decode(window[:1]).encode())
