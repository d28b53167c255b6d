"""Settings and input fingerprints that prepared data depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..tokenizers.chat_template import CHAT_TEMPLATE
from .answer_tokens import chat_settings
from .prepare_job import PrepareJob
from .prepared import NAME
from .sources.input_files import PYTHON, input_fingerprint, needs_cleaning
from .vocabulary import given_tokenizer

FORMAT = 1  # version of the directory's format: directories of other versions are refused
# Names of files in prepared data, which no source may have.
RESERVED = {"manifest.json", "tokenizer.json", "tokenizer.model", CHAT_TEMPLATE}


def settings_of(job: PrepareJob) -> dict[str, Any]:
    """Return the settings that prepared data depends on: "section.key" of the spec → value.

    Values are as after a round trip through JSON. Raises SourceError if there is no source, or a
    source's name or share is not allowed.
    """
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
    if job.supervised:
        settings["batch.sequence_length"] = job.context
        settings["tokenizer.chat_template"] = job.tokenizer.get("chat_template")
    used = ("path",) if job.tokenizer.get("path") else ("kind", "train_bytes")
    settings |= {f"tokenizer.{name}": _plain(job.tokenizer[name]) for name in used}
    for source, share in zip(job.sources, job.shares, strict=True):
        settings |= source_settings(source)
        settings[f"data.source.{source['name']}.share"] = share
    return settings


def source_settings(source: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a source's documents depend on: `data.source.NAME.KEY` → value.

    source: `[[data.source]]` table. Its share is left out. Values are as after a round trip through
    JSON.
    """
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
    """Return the value as it is after a round trip through JSON."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def input_fingerprints(job: PrepareJob) -> dict[str, Any]:
    """Return fingerprints of the files that the settings refer to: "section.key" → fingerprint.

    They cover the sources' files by name and size, and the contents of a given tokenizer with its
    EOS and, for conversations, its chat template. Raises InputError if files are missing,
    TokenizerError if the tokenizer cannot be used, SourceError if the template cannot be read.
    """
    inputs: dict[str, Any] = {
        f"data.source.{source['name']}.paths": input_fingerprint(source)
        for source in job.sources
        if source["kind"] not in PYTHON
    }
    if model := given_tokenizer(job):
        inputs |= {"tokenizer.path": model.pieces_sha256, "tokenizer.eos": model.eos}
        if job.supervised:
            inputs["tokenizer.chat_template"] = chat_settings(job.tokenizer, model).written()
    return inputs


def changed_settings(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line "  name: A before, B now" for each setting whose value differs, by name.

    then, now: setting → value, as from `settings_of`.
    """
    return [
        f"  {name}: {then.get(name, 'not set')!r} before, {now.get(name, 'not set')!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
