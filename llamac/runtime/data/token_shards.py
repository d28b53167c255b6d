"""Tokenise sources into shards that a training run maps into memory.

`prepare` reads each source twice: first a sample to train the tokenizer, then every document to
tokenise it. `prepared` describes the directory's layout. `manifest.json` is written last. If a call
is killed at any point, the next one reuses the tokenizer and the finished sources, and writes the
same bytes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import durable_files
from ..durable_files import Damaged, check, read_note_or_empty, sha256_of, write_array, write_note
from ..errors import SourceError
from ..tokenizers.tokenizer import Tokenizer, TokenizerError
from .answer_tokens import (
    AnswerEncoder,
    Supervision,
    encoder_of,
    supervised_documents,
    write_chat_template,
)
from .data_settings import changed_settings, input_fingerprints, settings_of
from .prepare_job import PrepareJob, Progress, ignore_progress
from .prepared import (
    SPLITS,
    PreparedDataError,
    ShardWriter,
    clear_source_directory,
    load_manifest,
    lock_directory,
    token_ids,
    verify_once,
)
from .sources.conversations import check_source
from .sources.input_files import CONVERSATIONS, needs_cleaning
from .sources.skipped_records import Skipped
from .sources.source_documents import documents
from .vocabulary import UnknownCounter, load_or_make_tokenizer, report_lost, train_on_sources

if TYPE_CHECKING:
    from ..distributed.ranks import Ranks

__all__ = ["PreparedDataError", "PreparedDataMismatch", "load_manifest", "prepare"]

BATCH_BYTES = 1 << 21  # about as much text is tokenised together
NO_TEXT = ("empty", "empty file")  # reasons that concern files and records without text
SHOWN = 5  # number of skipped conversations that are reported; the manifest lists more
T = TypeVar("T")


class PreparedDataMismatch(PreparedDataError):
    """The directory was prepared from other settings or other inputs."""


def token_counts(manifest: dict[str, Any]) -> str:
    """Return one line with each source's training tokens and, if supervised, tokens of answers."""
    counts = []
    for source in manifest["sources"]:
        train = source["train"]
        answers = f" ({train['targets']:,} of answers)" if "targets" in train else ""
        counts.append(f"{source['name']} {train['tokens']:,} tokens{answers}")
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
    context: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenise the sources into shards under `directory`; return the manifest.

    A directory that was prepared with the same settings is reused after its files are verified (see
    `prepared.verify_once`). If another process is preparing it, this one waits and then reuses it.

    Args:
        directory: created if it does not exist.
        sources: `[[data.source]]` tables with `name` and `share`, see `source_documents.documents`.
        tokenizer: `[tokenizer]` table: `path` of a tokenizer's file, or `kind` and `train_bytes`
            to train one.
        vocab_size: the model's vocabulary; larger ids are an error.
        validation: fraction of documents held out, chosen by a hash of the document, so that equal
            documents are in the same split and no document moves when others are added.
        shard_tokens: tokens per shard.
        seed: seed of that hash and of the tokenizer's sample.
        context: largest number of tokens of a conversation, for supervised data.
        progress: called with (activity, bytes of text done).

    Raises:
        PreparedDataMismatch: the directory was prepared with other settings or inputs.
        PreparedDataError: the directory is damaged or cannot be created.
        SourceError: a source cannot be read, or must be cleaned first.
        TokenizerError: the tokenizer cannot be loaded or does not fit the spec or the text.
    """
    job = PrepareJob(
        Path(directory), sources, tokenizer, vocab_size, validation, shard_tokens, seed,
        progress or ignore_progress, context,
    )  # fmt: skip
    settings = settings_of(job)
    with lock_directory(
        job.root, lambda: job.progress(f"waiting for the process at {job.root}", 0)
    ):
        if not (job.root / "manifest.json").exists():
            _prepare(job, settings)
            return _verify(job, settings)
        return reuse(job, settings)


def prepare_for_ranks(ranks: Ranks, directory: str | Path, **options: Any) -> dict[str, Any]:
    """Run `prepare` on rank 0; return its manifest on all ranks, which must read the same data.

    All ranks call this. options: keyword arguments of `prepare`. Nodes need not share a file
    system, but their copies could differ. Raises RunError on all ranks, naming the host, if a rank
    reads another manifest or has shards of other sizes, or if `prepare` fails.
    """
    manifest = ranks.on_first(lambda: prepare(directory, **options))
    ranks.on_each(lambda: _require_same(Path(directory), manifest))
    return manifest


def _require_same(directory: Path, manifest: dict[str, Any]) -> None:
    here = f"on {socket.gethostname()}, {directory.resolve()}"
    advice = "let all nodes read one shared directory (data.directory), or copies of rank 0's"
    try:
        same = load_manifest(directory)["sha256"] == manifest["sha256"]
    except PreparedDataError as error:
        raise PreparedDataError(
            f"{here} is not the data that rank 0 reads ({error}): {advice}"
        ) from error
    if not same:
        raise PreparedDataError(f"{here} is not the data that rank 0 reads: {advice}")


def reuse(job: PrepareJob, settings: dict[str, Any]) -> dict[str, Any]:
    """Verify a finished directory against the settings and its files; return its manifest.

    settings: from `settings_of`. Reports text that the tokenizer does not restore. Raises
    PreparedDataMismatch if settings or inputs have changed, PreparedDataError if a file is missing
    or damaged.
    """
    manifest = _verify(job, settings)
    report_lost(manifest["tokenizer"].get("lost", ()), job.progress)
    return manifest


def _verify(job: PrepareJob, settings: dict[str, Any]) -> dict[str, Any]:
    """Verify a finished directory against the settings and its files; return its manifest."""
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
    model = load_or_make_tokenizer(job, key, train_on_sources)
    report_lost(model.lost, job.progress)
    if job.supervised:
        write_chat_template(job.root, answer_encoder(job, model).chat)
    parts = [_prepare_source(job, source, model, key) for source in job.sources]
    manifest = {"settings": settings, "inputs": inputs} | manifest_summary(job, model, parts)
    write_note(job.root / "manifest.json", manifest)
    for part in parts:
        report_skipped(job.root, part, job.progress)


def report_skipped(root: Path, part: dict[str, Any], progress: Progress) -> None:
    """Report to `progress` what was skipped of a source, except files and records without text.

    Lists up to `SHOWN` skipped conversations. root: directory of the prepared data. part: the
    source's part of the manifest.
    """
    counts = {reason: n for reason, n in part["skipped"].items() if reason not in NO_TEXT}
    if counts:
        why = ", ".join(f"{count} × {reason}" for reason, count in counts.items())
        where = f"the first are listed in {root / 'manifest.json'}"
        progress(f"source {part['name']!r}: skipped {why}; {where}", 0)
    for example in part["skipped_examples"][:SHOWN] if part["kind"] in CONVERSATIONS else ():
        progress(f"  {example}", 0)


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
                raise  # the file exists, but is not a tokenizer
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


# --- One source ----------------------------------------------------------------------------


def _prepare_source(job: PrepareJob, source: dict[str, Any], model: Tokenizer, key: str) -> dict:
    """Write the source's shards and source.json; return its part of the manifest."""
    directory, stage = job.root / source["name"], f"tokenizing {source['name']}"
    finished = read_note_or_empty(directory / "source.json")
    if finished.get("key") == key and _is_undamaged(job, finished["source"]):
        return finished["source"]
    clear_source_directory(directory)
    writers = {name: ShardWriter(directory / name, job.dtype, job.shard_tokens) for name in SPLITS}
    unigrams, done = np.zeros(job.vocab_size, dtype=np.int64), 0
    unknown, skipped = UnknownCounter(source["name"], model), Skipped()
    job.progress(stage, done)
    for texts, encoded in _encoded(job, source, model, skipped):
        train_tokens = [np.empty(0, dtype=np.int32)]
        unknown.add(texts, [token_ids(tokens) for tokens in encoded] if job.supervised else encoded)
        for text, tokens in zip(texts, encoded, strict=True):
            data, tokens = text.encode(), job.stored(tokens)
            held_out = job.is_held_out(data)
            writers["validation" if held_out else "train"].add(tokens, len(data))
            if not held_out:
                train_tokens.append(tokens)
            done += len(data)
        unigrams += count_loss_tokens(np.concatenate(train_tokens), job.vocab_size)
        job.progress(stage, done)
    unknown.check()
    splits = {name: writer.close() for name, writer in writers.items()}
    if not splits["train"]["tokens"]:
        raise skipped.no_documents_error(source["name"], splits["validation"]["documents"])
    splits["train"] |= loss_statistics(source["kind"], unigrams)
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


def _is_undamaged(job: PrepareJob, part: dict[str, Any]) -> bool:
    """Return whether the files of an earlier finished source are unchanged."""
    try:
        check(job.root / part["name"] / "unigrams.npy", part["unigrams_sha256"])
        for shard in (shard for split in SPLITS for shard in part[split]["shards"]):
            check(job.root / shard["file"], shard["sha256"])
    except Damaged as error:
        job.progress(f"{error}: preparing source {part['name']!r} again", 0)
        return False
    return True


def _encoded(
    job: PrepareJob, source: dict[str, Any], model: Tokenizer, skipped: Skipped
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield (texts, tokens of each with the end token) of batches of a source's documents."""
    if source["kind"] in CONVERSATIONS:
        records = supervised_documents(source, answer_encoder(job, model), skipped)
        for batch in _batches(records, lambda document: len(document[0])):
            yield [text for text, _ in batch], [tokens for _, tokens in batch]
        return
    end = np.int32(model.eos)
    for texts in _batches(documents(source, skipped), len):
        yield texts, [np.append(tokens, end) for tokens in model.encode_batch(texts, cores())]


def answer_encoder(job: PrepareJob, model: Tokenizer) -> AnswerEncoder:
    """Return the encoder of conversations for a supervised job, cached per process.

    model: the job's tokenizer. Raises SourceError if a file with chat settings cannot be read,
    ChatTemplateError if the template is invalid.
    """
    assert job.context is not None, "supervised data is prepared for a length of sequences"
    return encoder_of(model, Supervision(tuple(job.tokenizer.items()), job.context))


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_loss_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return how often each id occurs among stored tokens with a loss, int64 [vocab_size].

    tokens: from `PrepareJob.stored`; negative ones have no loss.
    """
    return np.bincount(tokens[tokens >= 0], minlength=vocab_size)


def loss_statistics(kind: str, unigrams: np.ndarray) -> dict[str, Any]:
    """Return a source's manifest entries about its training tokens that have a loss.

    unigrams: from `count_loss_tokens`. `unigram_entropy` is in nats; supervised data also has
    `targets`, the number of such tokens.
    """
    targets = {"targets": int(unigrams.sum())} if kind in CONVERSATIONS else {}
    return {"unigram_entropy": entropy(unigrams), **targets}


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- All sources ---------------------------------------------------------------------------


def manifest_summary(
    job: PrepareJob, model: Tokenizer, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the manifest's entries about the tokenizer, the vocabulary and the sources.

    model: the job's tokenizer. parts: the sources' parts of the manifest, in the job's order. Reads
    their unigrams.npy and tokenizer.model.
    """
    mixed = np.zeros(job.vocab_size)
    for part, share in zip(parts, job.shares, strict=True):
        unigrams = np.load(job.root / part["name"] / "unigrams.npy")
        mixed += share * unigrams / unigrams.sum()
    chat = {"chat": answer_encoder(job, model).written()} if job.supervised else {}
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
            **chat,
        },
        "vocab_size": job.vocab_size,
        "dtype": job.dtype.str,
        "unigram_entropy": entropy(mixed),
        "sources": [part | {"share": share} for part, share in zip(parts, job.shares, strict=True)],
    }


def entropy(weights: np.ndarray) -> float:
    """Return the entropy in nats of the distribution with these (unnormalised) weights.

    For token counts, it is the loss of the best model that ignores all context.
    """
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum())
