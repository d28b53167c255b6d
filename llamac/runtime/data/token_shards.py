"""Prepare sources as token shards that a training run maps into memory.

`prepare` reads each source twice: first a sample to train the tokenizer, then every document to
tokenise it. `prepared` describes the directory's layout. `manifest.json` is written last. After a
kill at any point, another call keeps the tokenizer and the finished sources and writes the same
bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import durable_files
from ..durable_files import Damaged, check, note_or_nothing, sha256_of, write_array, write_note
from ..errors import SourceError
from ..tokenizers.tokenizer import Tokenizer, TokenizerError
from .input_files import PYTHON, input_fingerprint, needs_cleaning
from .prepare_job import PrepareJob, Progress, silent
from .prepared import (
    NAME,
    SPLITS,
    PreparedDataError,
    ShardWriter,
    clear,
    exclusive,
    load_manifest,
    token_dtype,
    verify_once,
)
from .records import check_source
from .skipped import Skipped
from .sources import documents
from .vocabulary import Unknown, given, say_lost, tokenizer_of, train_on_sources

__all__ = ["PreparedDataError", "PreparedDataMismatch", "load_manifest", "prepare"]

FORMAT = 1  # of the directory: a change of it makes older directories a mismatch
BATCH_BYTES = 1 << 21  # text tokenised together
NO_TEXT = ("empty", "empty file")  # reasons to skip what held nothing
RESERVED = {"manifest.json", "tokenizer.json", "tokenizer.model"}


class PreparedDataMismatch(PreparedDataError):
    """The directory was prepared from other settings or other inputs."""


def token_counts(manifest: dict[str, Any]) -> str:
    """Return the training tokens of each source, as one line."""
    counts = [f"{one['name']} {one['train']['tokens']:,} tokens" for one in manifest["sources"]]
    return ", ".join(counts)


def prepare(
    directory: str | Path,
    *,
    sources: list[dict[str, Any]],
    tokenizer: dict[str, Any],
    vocab_size: int,
    validation: float,
    shard_tokens: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenise the sources into shards under `directory`; return the manifest.

    sources: `[[data.source]]` tables (see `sources.documents`) with `name` and `share`.
    tokenizer: `path` of a SentencePiece model, or `kind` and `train_bytes` to train one.
    validation: fraction of documents held out, chosen by a hash of the document, so that equal
    documents fall on the same side and no document moves when others are added.

    A directory that was prepared from the same settings is kept, after its shards are compared with
    their hashes (see `prepared.verify_once` for the cost). A second process at the same directory
    reports that it waits for the first, then finds the data ready.
    Raises PreparedDataMismatch, PreparedDataError, SourceError, TokenizerError (all ValueError).
    """
    job = PrepareJob(
        Path(directory), sources, tokenizer, vocab_size, validation, shard_tokens, seed,
        progress or silent,
    )  # fmt: skip
    settings = settings_of(job)
    with exclusive(job.root, lambda: job.progress(f"waiting for the process at {job.root}", 0)):
        if not (job.root / "manifest.json").exists():
            _prepare(job, settings)
            return _checked(job, settings)
        return reuse(job, settings)


def reuse(job: PrepareJob, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a finished directory, checked against the settings and its files."""
    manifest = _checked(job, settings)
    say_lost(manifest["tokenizer"].get("lost", ()), job.progress)
    return manifest


def _checked(job: PrepareJob, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a finished directory, checked against the settings and its files."""
    manifest = load_manifest(job.root)
    _check_same(job, manifest, settings)
    verify_once(job.root, manifest, job.progress)
    return manifest


def _prepare(job: PrepareJob, settings: dict[str, Any]) -> None:
    for source in filter(needs_cleaning, job.sources):
        raise SourceError(
            f"{job.root} holds no prepared data, and source {source['name']!r} of kind "
            f"{source['kind']} must be cleaned first: run `llamac data prepare SPEC --set "
            f"data.directory={job.root}`"
        )
    for source in job.sources:
        check_source(source)
    inputs = input_fingerprints(job)
    key = durable_files.fingerprint([settings, inputs])
    model = tokenizer_of(job, key, train_on_sources)
    say_lost(model.lost, job.progress)
    parts = [_prepare_source(job, source, model, key) for source in job.sources]
    manifest = {"settings": settings, "inputs": inputs} | manifest_summary(job, model, parts)
    write_note(job.root / "manifest.json", manifest)
    for part in parts:
        say_skipped(job, part)


def say_skipped(job: PrepareJob, part: dict[str, Any]) -> None:
    """Report what was skipped of a source, except files and records without text."""
    counts = {reason: n for reason, n in part["skipped"].items() if reason not in NO_TEXT}
    if counts:
        why = ", ".join(f"{count} × {reason}" for reason, count in counts.items())
        where = f"the first are listed in {job.root / 'manifest.json'}"
        job.progress(f"source {part['name']!r}: skipped {why}; {where}", 0)


# --- Settings: what makes prepared data the same -------------------------------------------


def settings_of(job: PrepareJob) -> dict[str, Any]:
    """Return the settings that prepared data depends on: flat, with keys named as in the spec."""
    names = [source["name"] for source in job.sources]
    for name in names:
        legal = NAME.fullmatch(name) and name not in RESERVED
        if not legal or names.count(name) > 1:
            raise SourceError(
                f"source name {name!r} is not allowed: names become directories, so each must be "
                "unique, consist of letters, digits, '-', '_' and '.', and be none of "
                f"{', '.join(sorted(RESERVED))}"
            )
    if not names or any(source["share"] <= 0 for source in job.sources):
        raise SourceError("the data needs at least one source, and every share must be positive")
    settings: dict[str, Any] = {
        "format": FORMAT,
        "model.vocab_size": job.vocab_size,
        "data.validation": job.validation,
        "data.shard_tokens": job.shard_tokens,
        "seed": job.seed,
        "data.source": names,
    }
    used = ("path",) if job.tokenizer.get("path") else ("kind", "train_bytes")
    settings |= {f"tokenizer.{name}": _plain(job.tokenizer[name]) for name in used}
    for source, share in zip(job.sources, job.shares, strict=True):
        settings |= source_settings(source)
        settings[f"data.source.{source['name']}.share"] = share
    return settings


def source_settings(source: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the source's text depends on."""
    prefix, of_files = f"data.source.{source['name']}", source["kind"] not in PYTHON
    fields = ("kind", "max_bytes", *(("paths", "text_field") if of_files else ()))
    fields = (*fields, "tokenizer") if source["kind"] == "tokens" else fields
    settings = {f"{prefix}.{name}": _plain(source.get(name)) for name in fields}
    if needs_cleaning(source):
        stages = source.get("stage", ())
        settings[f"{prefix}.stage"] = [stage["stage"] for stage in stages]
        for number, stage in enumerate(stages):
            fields = {name: value for name, value in stage.items() if name != "stage"}
            where = f"{prefix}.stage.{number}.{stage['stage']}"
            settings |= {f"{where}.{name}": _plain(value) for name, value in fields.items()}
    return settings


def _plain(value: Any) -> Any:
    """Convert a value to what a JSON round trip returns."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def input_fingerprints(job: PrepareJob) -> dict[str, Any]:
    """Return fingerprints of the inputs that the settings refer to: files, tokenizer."""
    inputs: dict[str, Any] = {
        f"data.source.{source['name']}.paths": input_fingerprint(source)
        for source in job.sources
        if source["kind"] not in PYTHON
    }
    if model := given(job):
        inputs |= {"tokenizer.path": model.pieces_sha256, "tokenizer.eos": model.eos}
    return inputs


def _check_same(job: PrepareJob, manifest: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise PreparedDataMismatch if the data was prepared from other settings or inputs.

    The files that data was made from may be gone; then only the settings are compared.
    """
    changes = changed_settings(manifest["settings"], settings)
    if not changes:
        eos = {"tokenizer.eos": manifest["tokenizer"]["eos"]} if job.tokenizer.get("path") else {}
        before = manifest["inputs"] | eos
        try:
            now = input_fingerprints(job)
        except (SourceError, TokenizerError, OSError) as error:
            if isinstance(error, TokenizerError) and not isinstance(error.__cause__, OSError):
                raise  # the file is there, but no tokenizer
            asked = job.tokenizer.get("eos")
            now = before | ({"tokenizer.eos": asked} if eos and isinstance(asked, int) else {})
        changes = [
            f"  {name}: the files have changed: {then!r} before, {now.get(name)!r} now"
            for name, then in before.items()
            if now.get(name) != then
        ]
    if changes:
        raise PreparedDataMismatch(
            f"{job.root} was prepared with other settings:\n" + "\n".join(changes) + "\n"
            f"Undo the change, delete {job.root} to prepare it again, or set data.directory to "
            "another directory."
        )


def changed_settings(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each setting whose value differs."""
    return [
        f"  {name}: {then.get(name, 'not set')!r} before, {now.get(name, 'not set')!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


# --- One source ----------------------------------------------------------------------------


def _prepare_source(job: PrepareJob, source: dict[str, Any], model: Tokenizer, key: str) -> dict:
    """Write the source's shards and source.json; return its part of the manifest."""
    directory, stage = job.root / source["name"], f"tokenizing {source['name']}"
    finished = note_or_nothing(directory / "source.json")
    if finished.get("key") == key and _is_whole(job, finished["source"]):
        return finished["source"]
    clear(directory)
    dtype, skipped = token_dtype(job.vocab_size), Skipped()
    writers = {name: ShardWriter(directory / name, dtype, job.shard_tokens) for name in SPLITS}
    unigrams, done = np.zeros(job.vocab_size, dtype=np.int64), 0
    unknown = Unknown(source["name"], model)
    job.progress(stage, done)
    for texts in _batches(documents(source, skipped)):
        kept = [np.empty(0, dtype=np.int32)]
        encoded = model.encode_batch(texts, cores())
        unknown.add(texts, encoded)
        for text, tokens in zip(texts, encoded, strict=True):
            data, tokens = text.encode(), np.append(tokens, np.int32(model.eos))
            held_out = job.is_held_out(data)
            writers["validation" if held_out else "train"].add(tokens, len(data))
            if not held_out:
                kept.append(tokens)
            done += len(data)
        unigrams += np.bincount(np.concatenate(kept), minlength=job.vocab_size)
        job.progress(stage, done)
    unknown.check()
    splits = {name: writer.close() for name, writer in writers.items()}
    if not splits["train"]["tokens"]:
        raise skipped.nothing_left(source["name"], splits["validation"]["documents"])
    splits["train"]["unigram_entropy"] = entropy(unigrams)
    counted = write_array(directory / "unigrams.npy", unigrams)
    part = {
        "name": source["name"],
        "kind": source["kind"],
        "unigrams_sha256": counted,
        **splits,
        "skipped": dict(sorted(skipped.counts.items())),
        "skipped_examples": skipped.examples,
    }
    write_note(directory / "source.json", {"key": key, "source": part})
    return part


def _is_whole(job: PrepareJob, part: dict[str, Any]) -> bool:
    """Return whether the files of an earlier finished source are unchanged."""
    try:
        check(job.root / part["name"] / "unigrams.npy", part["unigrams_sha256"])
        for shard in (shard for split in SPLITS for shard in part[split]["shards"]):
            check(job.root / shard["file"], shard["sha256"])
    except Damaged as error:
        job.progress(f"{error}: preparing source {part['name']!r} again", 0)
        return False
    return True


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- All sources ---------------------------------------------------------------------------


def manifest_summary(
    job: PrepareJob, model: Tokenizer, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the manifest's entries on the tokenizer, the vocabulary and the sources."""
    mixed = np.zeros(job.vocab_size)
    for part, share in zip(parts, job.shares, strict=True):
        unigrams = np.load(job.root / part["name"] / "unigrams.npy")
        mixed += share * unigrams / unigrams.sum()
    return {
        "tokenizer": {
            "pieces": model.vocab_size,
            "pieces_sha256": model.pieces_sha256,
            "sha256": sha256_of(job.root / "tokenizer.model"),
            "unk": model.unk,
            "bos": model.bos,
            "eos": model.eos,
            "lossless": model.lossless,
            "lost": model.lost,
        },
        "vocab_size": job.vocab_size,
        "dtype": token_dtype(job.vocab_size).str,
        "unigram_entropy": entropy(mixed),
        "sources": [part | {"share": share} for part, share in zip(parts, job.shares, strict=True)],
    }


def entropy(weights: np.ndarray) -> float:
    """Return the entropy in nats of the distribution with these weights.

    It is the loss of the best model that ignores all context.
    """
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum())
