"""Write the manifest that training reads, and the counts of each source: the last step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llamac.data.accounting import funnel
from llamac.data.clean import funnel_of, skipped_examples
from llamac.data.source_plan import SourcePlan
from llamac.data.stages.decontaminate import contaminated_documents
from llamac.data.tokenization.token_parts import INDEX, UNKNOWN, read_part_state
from llamac.runtime.data import data_settings, token_shards
from llamac.runtime.data.answer_tokens import write_chat_template
from llamac.runtime.data.prepare_job import PrepareJob
from llamac.runtime.data.prepared import SPLITS
from llamac.runtime.data.sources.skipped_records import EXAMPLES
from llamac.runtime.data.vocabulary import UnknownCounter
from llamac.runtime.durable_files import write, write_array, write_json, write_note
from llamac.runtime.errors import SourceError
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import Tokenizer

FUNNEL, CONTAMINATED = "funnel.json", "contaminated.jsonl"  # in a source's directory


def finish_preparation(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> None:
    """Write manifest.json and the sources' counts, and empty the surveys' decision files.

    Also writes reports of contaminated documents and, for supervised data, the chat template. work:
    folder of the tokenising steps. Raises SourceError if a source has no training documents,
    TokenizerError if too many of its tokens are unknown.
    """
    model = load_tokenizer_file(job.root / "tokenizer.model")
    if job.supervised:
        write_chat_template(job.root, token_shards.answer_encoder(job, model).chat)
    parts = [_source(job, work, plan, model) for plan in plans]
    for plan in plans:
        _write_contaminated(job, plan)
        # Delete the content but keep the file, which marks the step as done.
        for step in plan.passes[1:]:
            write(plan.decision_path(step.number), b"", sealed=True)
    manifest = {
        "settings": data_settings.settings_of(job),
        "inputs": data_settings.input_fingerprints(job),
    }
    write_note(
        job.root / "manifest.json", manifest | token_shards.manifest_summary(job, model, parts)
    )


def _write_contaminated(job: PrepareJob, plan: SourcePlan) -> None:
    """Write a report of the documents dropped for matching an evaluation set."""
    reports: list[dict[str, Any]] = []
    for step in plan.passes[1:]:
        assert step.survey is not None
        decision = plan.decision_path(step.number)
        if plan.source.stage[step.survey].stage == "decontaminate":
            if not decision.stat().st_size:
                return  # an earlier run wrote it and was then interrupted
            reports += contaminated_documents(decision, len(plan.parts))
    if reports:
        path = job.root / plan.source.name / CONTAMINATED
        write(path, "".join(json.dumps(hit) + "\n" for hit in reports).encode())


def is_finished(job: PrepareJob, work: Path, plans: tuple[SourcePlan, ...]) -> bool:
    """Return whether manifest.json exists.

    work, plans: unused; those of `finish_preparation`.
    """
    return (job.root / "manifest.json").is_file()


def _source(job: PrepareJob, work: Path, plan: SourcePlan, model: Tokenizer) -> dict[str, Any]:
    name, rows = plan.source.name, funnel_of(plan)
    done = [read_part_state(work, plan, part) for part in plan.parts]
    unknown = np.array([part.get(UNKNOWN, (0, 0)) for part in done]).sum(0).tolist()
    UnknownCounter(name, model, unknown).check()
    splits = {split: _split(name, split, [part[split] for part in done]) for split in SPLITS}
    if not splits["train"]["tokens"]:
        raise SourceError(
            f"source {name!r} has no documents to train on: all "
            f"{splits['validation']['documents']} were held out; lower data.validation or add "
            "documents"
        )
    unigrams = np.zeros(job.vocab_size, np.int64)
    for shard in splits["train"]["shards"]:
        tokens = np.memmap(job.root / shard["file"], job.dtype, "r")
        for start in range(0, len(tokens), 1 << 24):
            block = tokens[start : start + (1 << 24)]
            unigrams += token_shards.count_loss_tokens(block, job.vocab_size)
    splits["train"] |= token_shards.loss_statistics(plan.source.kind, unigrams)
    digest = write_array(job.root / name / "unigrams.npy", unigrams)
    write_json(job.root / name / FUNNEL, funnel.to_json(rows))
    examples = [example for part in plan.parts for example in skipped_examples(plan, part)]
    return {
        "name": name,
        "kind": plan.source.kind,
        "unigrams_sha256": digest,
        **splits,
        "skipped": {reason: amount[0] for reason, amount in sorted(rows[0].rejected.items())},
        "skipped_examples": examples[:EXAMPLES],
    }


def _split(name: str, split: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(part[key] for part in parts) for key in ("documents", "bytes", "tokens")}
    return {
        **sums,
        "bytes_per_token": sums["bytes"] / sums["tokens"] if sums["tokens"] else None,
        "shards": [shard for part in parts for shard in part["shards"]],
        "index": [
            {
                "file": f"{name}/{split}-{number:05}",
                "documents": part["documents"],
                "tokens": part["tokens"],
                "sha256": {kind: part["hashes"][kind] for kind in INDEX},
            }
            for number, part in enumerate(parts)
            if part["documents"]
        ],
    }
