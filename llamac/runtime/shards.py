"""From sources to token shards: a directory that a training run can map into memory.

    manifest.json                  settings, tokenizer, per source and split: documents, bytes,
                                   tokens, entropy, and each shard with its sha256
    tokenizer.model
    <source>/train-00000.bin       tokens, little-endian uint16 or uint32, nothing else;
    <source>/validation-00000.bin  each document ends with EOS; documents may cross shards
    <source>/source.json           this source's part of the manifest, written when it is whole
    <source>/unigrams.npy          int64 [vocab_size], how often each token occurs in train

Every file is written aside, flushed to disk and renamed; `manifest.json` comes last. Kill it
anywhere and run it again: finished sources are kept, and the bytes come out the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from .sources import Skipped, SourceError, documents, fingerprint
from .tokenizer import Tokenizer, TokenizerError, sample, train_tokenizer, training_lines

FORMAT = 1
BATCH_BYTES = 1 << 21  # text tokenised together
SPLITS = ("train", "validation")
Progress = Callable[[str, int], None]  # (what is being done, bytes of text done so far)


class PreparedDataMismatch(ValueError):
    """The directory was prepared from other settings or other inputs."""


class PreparedDataError(ValueError):
    """The directory is unfinished or damaged."""


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
    """Tokenises the sources into shards under `directory` and returns the manifest.

    sources: `[[data.source]]` tables (see `sources.documents`) with `name` and `share`.
    tokenizer: `path` of a SentencePiece model, or `kind` and `train_bytes` to train one.
    validation: the fraction of documents held out, chosen by a hash of the document, so that
    equal documents fall on the same side and no document moves when others are added.

    A directory that is already prepared from the same settings is returned as it is.
    Raises PreparedDataMismatch, SourceError, TokenizerError.
    """
    root, progress = Path(directory), progress or (lambda stage, done: None)
    settings = _settings(sources, tokenizer, vocab_size, validation, shard_tokens, seed)
    if (root / "manifest.json").exists():
        manifest = load_manifest(root)
        _check_same(root, manifest, settings, sources, tokenizer)
        return manifest
    root.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(sources, tokenizer)
    key = _key(settings, inputs)
    model = _tokenizer(root, key, sources, tokenizer, vocab_size, validation, seed, progress)
    parts = [
        _prepare_source(
            root / source["name"], source, model, key, vocab_size, validation, shard_tokens, seed,
            progress,
        )
        for source in sources
    ]  # fmt: skip
    manifest = _manifest(root, parts, model, settings, inputs, vocab_size)
    _write_json(root / "manifest.json", manifest)
    return manifest


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a prepared directory, with every shard checked to be there in full size."""
    root = Path(directory)
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PreparedDataError(f"{root} holds no prepared data (no manifest.json)") from error
    width = np.dtype(manifest["dtype"]).itemsize
    for path, shard in _shards(root, manifest):
        size = path.stat().st_size if path.exists() else -1
        if size != shard["tokens"] * width:
            what = "is missing" if size < 0 else f"has {size} bytes, not {shard['tokens'] * width}"
            raise PreparedDataError(f"{path} {what}: delete {root} and prepare the data again")
    return manifest


def verify(directory: str | Path) -> dict[str, Any]:
    """`load_manifest`, with every shard and the tokenizer read and compared with their hashes."""
    root, manifest = Path(directory), load_manifest(directory)
    for path, shard in _shards(root, manifest):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
                raise PreparedDataError(f"{path} is damaged: delete {root} and prepare again")
    model = root / "tokenizer.model"
    if Tokenizer.load(model).pieces_sha256 != manifest["tokenizer"]["pieces_sha256"]:
        raise PreparedDataError(f"{model} is not the tokenizer these shards were made with")
    return manifest


def _shards(root: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for source in manifest["sources"]:
        for split in SPLITS:
            for shard in source[split]["shards"]:
                yield root / shard["file"], shard


# --- Settings: what makes prepared data the same -------------------------------------------


def _settings(
    sources: list[dict[str, Any]],
    tokenizer: dict[str, Any],
    vocab_size: int,
    validation: float,
    shard_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Flat, named as in the spec, so that a difference can be told in the spec's words."""
    names = [source["name"] for source in sources]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or names.count(name) > 1:
            raise SourceError(
                f"source name {name!r}: names are directories, so each must be unique and of "
                "letters, digits, '-', '_' and '.'"
            )
    if not names or any(source["share"] <= 0 for source in sources):
        raise SourceError("the data needs at least one source, and every share must be positive")
    settings: dict[str, Any] = {
        "format": FORMAT,
        "model.vocab_size": vocab_size,
        "data.validation": validation,
        "data.shard_tokens": shard_tokens,
        "seed": seed,
        "data.source": names,
    }
    used = ("path",) if tokenizer.get("path") else ("kind", "train_bytes")
    settings |= {f"tokenizer.{name}": _plain(tokenizer[name]) for name in used}
    total = sum(source["share"] for source in sources)
    for source in sources:
        prefix = f"data.source.{source['name']}"
        fields = ("kind", "max_bytes") + (
            ("paths", "text_field") if source["kind"] == "files" else ()
        )
        settings |= {f"{prefix}.{name}": _plain(source.get(name)) for name in fields}
        settings[f"{prefix}.share"] = source["share"] / total
    return settings


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _inputs(sources: list[dict[str, Any]], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What the settings refer to but do not contain."""
    inputs = {f"data.source.{source['name']}": fingerprint(source) for source in sources}
    if tokenizer.get("path"):
        inputs["tokenizer.path"] = Tokenizer.load(tokenizer["path"]).pieces_sha256
    return {name: value for name, value in inputs.items() if value is not None}


def _check_same(
    root: Path,
    manifest: dict[str, Any],
    settings: dict[str, Any],
    sources: list[dict[str, Any]],
    tokenizer: dict[str, Any],
) -> None:
    """Raises PreparedDataMismatch. Prepared data may outlive, or travel without, the files it was
    made from: those that are gone are not compared."""
    before = manifest["settings"]
    changes = [
        f"  {name}: {before.get(name, 'not set')!r} then, {settings.get(name, 'not set')!r} now"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if not changes:
        try:
            now = _inputs(sources, tokenizer)
        except (SourceError, OSError):
            now = manifest["inputs"]
        changes = [
            f"  {name}: its files have changed, {then!r} then, {now.get(name)!r} now"
            for name, then in manifest["inputs"].items()
            if now.get(name) != then
        ]
    if changes:
        raise PreparedDataMismatch(
            f"{root} was prepared with other settings:\n" + "\n".join(changes) + "\n"
            f"Undo the change, delete {root} to prepare it anew, or set data.directory to "
            "another place."
        )


def _key(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# --- The tokenizer -------------------------------------------------------------------------


def _tokenizer(
    root: Path,
    key: str,
    sources: list[dict[str, Any]],
    settings: dict[str, Any],
    vocab_size: int,
    validation: float,
    seed: int,
    progress: Progress,
) -> Tokenizer:
    """The tokenizer of `tokenizer.path`, or one trained on a sample of the training documents,
    each source giving bytes in proportion to its share (or all it has). Kept across a kill."""
    note, model_path = root / "tokenizer.json", root / "tokenizer.model"
    if _read_json(note).get("key") == key and model_path.exists():
        return Tokenizer.load(model_path)
    if settings.get("path"):
        model = Tokenizer.load(settings["path"])
        if model.vocab_size > vocab_size:
            raise TokenizerError(
                f"{settings['path']} has {model.vocab_size} pieces, more than model.vocab_size = "
                f"{vocab_size}: raise model.vocab_size to at least {model.vocab_size}"
            )
    else:
        total, lines = sum(source["share"] for source in sources), []
        for source in sources:
            progress(f"sampling {source['name']}", 0)
            texts = (
                text
                for text in documents(source)
                if not is_held_out(text, validation, seed)
            )  # fmt: skip
            budget = int(settings["train_bytes"] * source["share"] / total)
            lines += training_lines(sample(texts, budget, f"{seed}\0{source['name']}"))
        progress("training the tokenizer", sum(map(len, lines)))
        model = train_tokenizer(lines, kind=settings["kind"], vocab_size=vocab_size)
    _write(model_path, model.model)
    _write_json(note, {"key": key})
    return model


def is_held_out(text: str, validation: float, seed: int) -> bool:
    """Whether a document belongs to the validation split: by its hash alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=f"{seed}".encode()).digest()
    return int.from_bytes(digest, "little") < validation * 2**64


# --- One source ----------------------------------------------------------------------------


@dataclass
class _Split:
    """A split of a source being written: a stream of tokens cut into shards of equal size."""

    path: Path  # of the shards, without "-00000.bin"
    dtype: np.dtype
    shard_tokens: int
    documents: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _digest: Any = None
    _tokens: int = 0

    def add(self, tokens: np.ndarray) -> None:
        while len(tokens):
            if self._file is None:
                self._file = self._aside.open("wb")
                self._digest, self._tokens = hashlib.sha256(), 0
            head = tokens[: self.shard_tokens - self._tokens]
            data = head.astype(self.dtype).tobytes()
            self._file.write(data)
            self._digest.update(data)
            self._tokens += len(head)
            tokens = tokens[len(head) :]
            if self._tokens == self.shard_tokens:
                self.close()

    def close(self) -> None:
        if self._file is None:
            return
        _settle(self._file)
        self._file = None
        target = self.path.with_name(f"{self.path.name}-{len(self.shards):05}.bin")
        os.replace(self._aside, target)
        name = f"{target.parent.name}/{target.name}"
        self.shards.append(
            {"file": name, "tokens": self._tokens, "sha256": self._digest.hexdigest()}
        )

    @property
    def _aside(self) -> Path:
        return self.path.with_name(self.path.name + ".tmp")

    def summary(self) -> dict[str, Any]:
        tokens = sum(shard["tokens"] for shard in self.shards)
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": tokens,
            "bytes_per_token": self.bytes / tokens if tokens else None,
            "shards": self.shards,
        }


def _prepare_source(
    directory: Path,
    source: dict[str, Any],
    model: Tokenizer,
    key: str,
    vocab_size: int,
    validation: float,
    shard_tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the source's shards; returns (and keeps in source.json) its part of the manifest."""
    kept = _read_json(directory / "source.json")
    if kept.get("key") == key:
        return kept["source"]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    dtype, skipped = token_dtype(vocab_size), Skipped()
    splits = {name: _Split(directory / name, dtype, shard_tokens) for name in SPLITS}
    counts, done = np.zeros(vocab_size, dtype=np.int64), 0
    progress(f"tokenizing {source['name']}", 0)
    for texts in _batches(documents(source, skipped)):
        for text, tokens in zip(texts, model.encode_batch(texts, _threads()), strict=True):
            tokens = np.append(tokens, np.int32(model.eos))
            name = "validation" if is_held_out(text, validation, seed) else "train"
            splits[name].add(tokens)
            splits[name].documents += 1
            splits[name].bytes += len(text.encode())
            if name == "train":
                counts += np.bincount(tokens, minlength=vocab_size)
        done += sum(len(text.encode()) for text in texts)
        progress(f"tokenizing {source['name']}", done)
    for split in splits.values():
        split.close()
    part = {name: split.summary() for name, split in splits.items()}
    if not part["train"]["tokens"]:
        _no_documents(source, part["validation"]["documents"], skipped)
    part["train"]["unigram_entropy"] = _entropy(counts)
    with (directory / "unigrams.tmp").open("wb") as file:
        np.save(file, counts)
        _settle(file, close=False)
    os.replace(directory / "unigrams.tmp", directory / "unigrams.npy")
    result = {
        "name": source["name"],
        "kind": source["kind"],
        "share": source["share"],
        **part,
        "skipped": dict(sorted(skipped.counts.items())),
        "skipped_examples": skipped.examples,
    }
    _write_json(directory / "source.json", {"key": key, "source": result})
    return result


def _no_documents(source: dict[str, Any], held_out: int, skipped: Skipped) -> None:
    why = ", ".join(f"{count} × {reason}" for reason, count in skipped.counts.items())
    if held_out:
        why = f"all {held_out} were held out; lower data.validation or give more documents"
    examples = "".join(f"\n  {example}" for example in skipped.examples[:3])
    raise SourceError(
        f"source {source['name']!r} has no document to train on ({why or 'it is empty'}){examples}"
    )


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


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


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _entropy(weights: np.ndarray) -> float:
    """Of a distribution given by weights, in nats: the loss of the best context-free model."""
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum())


def _manifest(
    root: Path,
    parts: list[dict[str, Any]],
    model: Tokenizer,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    vocab_size: int,
) -> dict[str, Any]:
    total, mixed = sum(part["share"] for part in parts), np.zeros(vocab_size)
    for part in parts:
        part["share"] /= total
        counts = np.load(root / part["name"] / "unigrams.npy")
        mixed += part["share"] * counts / counts.sum()
    return {
        "settings": settings,
        "inputs": inputs,
        "tokenizer": {
            "pieces": model.vocab_size,
            "pieces_sha256": model.pieces_sha256,
            "unk": model.unk,
            "bos": model.bos,
            "eos": model.eos,
            "lossless": model.lossless,
        },
        "vocab_size": vocab_size,
        "dtype": token_dtype(vocab_size).str,
        "unigram_entropy": _entropy(mixed),
        "sources": parts,
    }


# --- Files that are whole or not there -----------------------------------------------------


def _settle(file: IO[bytes], close: bool = True) -> None:
    file.flush()
    os.fsync(file.fileno())
    if close:
        file.close()


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(data)
        _settle(file, close=False)
    os.replace(aside, path)


def _write_json(path: Path, value: Any) -> None:
    _write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
