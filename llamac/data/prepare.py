"""Prepare a spec's sources as a directory that training reads: `llamac data prepare`.

The work is a sequence of steps of independent jobs: reading; scan, merge and judge for each survey,
for all sources in parallel; then the tokenizer, the tokens and the manifest. Intermediate files are
in the directory's `.work`, by source, and in `.work/.tokens`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from llamac.data.clean import clean, is_clean
from llamac.data.executor import Engine, Job, Report, Step, run
from llamac.data.finish import finish_preparation, is_finished
from llamac.data.source_plan import (
    DEFAULT_SIZES,
    PartSizes,
    SourcePlan,
    plan_source,
    settings_of_source,
)
from llamac.data.state import FORMAT, SettingsChangedError, differences_from, write_settings
from llamac.data.survey import is_merged, is_scanned, merge, scan_part
from llamac.data.tokenization.token_parts import is_tokenized, tokenize
from llamac.data.tokenization.training_text import (
    choose_tokenizer,
    count_text,
    draw_lines,
    has_tokenizer,
    is_counted,
    is_drawn,
)
from llamac.runtime.data import data_settings, token_shards
from llamac.runtime.data.answer_tokens import Supervision
from llamac.runtime.data.prepare_job import PrepareJob, ignore_progress
from llamac.runtime.data.prepared import lock_directory
from llamac.runtime.data.vocabulary import given_tokenizer, report_lost
from llamac.runtime.durable_files import fingerprint, read_note_or_empty
from llamac.spec import Spec
from llamac.spec.data import CONVERSATIONS

WORK, TOKENS = ".work", ".tokens"  # directories of intermediate files


@dataclass(frozen=True)
class Preparation:
    """Plan of a preparation. job: settings of the whole. plans: one per source, in order."""

    job: PrepareJob
    plans: tuple[SourcePlan, ...]

    @property
    def root(self) -> Path:
        """Return the directory of the prepared data."""
        return self.job.root

    @property
    def work(self) -> Path:
        """Return the directory of the tokenising steps' intermediate files."""
        return self.root / WORK / TOKENS


def plan_preparation(spec: Spec, directory: Path, sizes: PartSizes = DEFAULT_SIZES) -> Preparation:
    """Plan the preparation of a spec's data in a directory, without writing anything.

    sizes: target bytes of parts and chunks. Raises StageError if a stage lacks a file or package,
    SourceError if a source has no input.
    """
    tuning = Supervision(tuple(spec.tokenizer.toml_values().items()), spec.batch.sequence_length)
    plans = tuple(
        plan_source(
            source,
            directory / WORK / source.name,
            sizes,
            tuning if source.kind in CONVERSATIONS else None,
        )
        for source in spec.data.source
    )
    return Preparation(job_of(spec, directory), plans)


def job_of(spec: Spec, directory: Path) -> PrepareJob:
    """Return the job by which the emitted trainer would prepare the same data, without progress.

    directory: of the prepared data.
    """
    return PrepareJob(
        directory,
        [source.toml_values() for source in spec.data.source],
        {"path": None, "eos": None, **spec.tokenizer.toml_values()},
        spec.model.vocab_size,
        spec.data.validation,
        spec.data.shard_tokens,
        spec.seed,
        ignore_progress,
        spec.batch.sequence_length if spec.data.supervised else None,
    )


def prepare(preparation: Preparation, engine: Engine, report: Report) -> dict[str, Any]:
    """Do the remaining work, holding the directory's lock, and return the manifest.

    engine: runs the jobs. report: called with progress.
    Raises SettingsChangedError if the work was begun with other settings, PreparedDataError if a
    file of finished data is missing or damaged, and what the jobs raise: SourceError, StageError or
    TokenizerError.
    """
    waiting = Step(f"waiting for the process at {preparation.root}", ())
    with lock_directory(preparation.root, lambda: report(waiting, 0, 0)):
        record_settings(preparation)
        if model := given_tokenizer(preparation.job):
            report_lost(model.lost, lambda text, _: report(Step(text, ()), 0, 0))
        if not is_finished(preparation.job, preparation.work, preparation.plans):
            run(preparation_steps(preparation), engine, report)
        return token_shards.reuse(preparation.job, data_settings.settings_of(preparation.job))


def moved_manifest(spec: Spec, directory: Path) -> dict[str, Any] | None:
    """Return the manifest of prepared data that was moved here without its `.work`, else None.

    directory: of the prepared data. The raw data may no longer exist. Raises PreparedDataMismatch
    if the data is of another spec, PreparedDataError if a file is missing or damaged.
    """
    if (directory / WORK).exists() or not (directory / "manifest.json").is_file():
        return None
    job = job_of(spec, directory)
    return token_shards.reuse(job, data_settings.settings_of(job))


def record_settings(preparation: Preparation) -> None:
    """Record the settings that the work depends on, in `plan.json` of each folder of work.

    Raises SettingsChangedError, naming each changed key and what to delete, if the work was begun
    with other settings.
    """
    job, records, stale, changes = preparation.job, [], [], []
    for plan in preparation.plans:
        path, settings = plan.work / "plan.json", settings_of_source(plan)
        records.append((path, settings))
        if changed := differences_from(path, settings):
            changes += changed
            stale.append(plan.work)
    keys = [fingerprint(settings) for _, settings in records]
    settings = data_settings.settings_of(job)
    inputs = data_settings.input_fingerprints(job)
    settings["tokenizer.path: the pieces"] = inputs.get("tokenizer.path")
    if job.tokenizer.get("eos") is not None:
        settings["tokenizer.eos: the piece"] = inputs.get("tokenizer.eos")
    key = hashlib.sha256(json.dumps([FORMAT, settings, keys]).encode()).hexdigest()
    records.append((preparation.work / "plan.json", settings | {"key": key}))
    later_changes = differences_from(preparation.work / "plan.json", settings)
    manifest = read_note_or_empty(job.root / "manifest.json").get("settings")
    later_changes += (
        data_settings.changed_settings(manifest, data_settings.settings_of(job)) if manifest else []
    )
    if changes or later_changes:
        stale += [p for p in (preparation.work, job.root / "manifest.json") if p.exists()]
        raise SettingsChangedError(
            f"{job.root} was prepared, or begun, with other settings:\n"
            + "\n".join(dict.fromkeys(changes + later_changes))
            + "\nUndo the change, set data.directory to another directory, or prepare the affected "
            f"data again after:\n  rm -r {' '.join(map(str, stale))}"
        )
    for path, settings in records:
        write_settings(path, settings)


def preparation_steps(preparation: Preparation) -> list[Step]:
    """Return all steps, finished or not. The list depends only on the spec and its files."""
    job, work, plans = preparation.job, preparation.work, preparation.plans
    steps_by_source = [list(_cleaning(plan)) for plan in plans]
    cleaning = [
        Step(
            ", ".join(dict.fromkeys(step.name for step in parallel if step)),
            [job for step in parallel if step for job in step.jobs],
        )
        for parallel in zip_longest(*steps_by_source)
    ]
    parts = [(plan.only(part), part) for plan in plans for part in plan.parts]
    training = [
        Step("counting", [Job(count_text, (work, p), 0, is_counted) for p in plans]),
        Step(
            "sampling", [Job(draw_lines, (job, work, *at), at[1].bytes, is_drawn) for at in parts]
        ),
    ]
    return [
        *cleaning,
        *(training if not job.tokenizer.get("path") else []),
        Step("tokenizer", [Job(choose_tokenizer, (job, work, plans), 0, has_tokenizer)]),
        Step(
            "tokens", [Job(tokenize, (job, work, *at), at[1].bytes, is_tokenized) for at in parts]
        ),
        Step("manifest", [Job(finish_preparation, (job, work, plans), 0, is_finished)]),
    ]


def _cleaning(plan: SourcePlan) -> Iterator[Step]:
    for number, step in enumerate(plan.passes):
        name = ""
        works = [(plan.only(part), number, part) for part in plan.parts]
        if step.survey is not None:
            name = plan.source.stage[step.survey].stage
            scans = [Job(scan_part, work, work[2].bytes, is_scanned) for work in works]
            yield Step(f"{name}: scanning", scans)
            yield Step(f"{name}: merging", [Job(merge, (plan, number), 0, is_merged)])
        judged = [Job(clean, work, work[2].bytes, is_clean) for work in works]
        yield Step(f"{name}: judging" if name else "reading", judged)
