"""Rules between sections of a spec.

A rule's parameters name the sections that it reads. It runs if all of these are valid by
themselves, so that one invalid section does not hide problems between the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llamac.spec.batch import Batch
from llamac.spec.data import CONVERSATIONS, Data
from llamac.spec.finetune import (
    adapters_have_a_base,
    pairs_stay_together,
    preferences_have_a_reference,
    preferences_have_an_objective,
    targets_exist,
)
from llamac.spec.launch import nodes_are_full
from llamac.spec.model import Model
from llamac.spec.parallel import Parallel
from llamac.spec.rules.attention_kernels import kernel_can_run
from llamac.spec.rules.layouts import (
    batch_divides_over_ranks,
    layers_divide_into_stages,
    layout_fits,
)
from llamac.spec.schedule import Schedule
from llamac.spec.tokenizer import TokenizerSection
from llamac.spec.validation.errors import Problem

SMALLEST_TRAINED_VOCABULARY = 320
"""Smallest vocabulary to train: 256 bytes, control pieces, ten digits, and some merged pieces."""


def total_steps(schedule: Schedule, batch: Batch) -> int:
    """Return the number of optimizer steps; a budget in tokens is rounded up to whole steps."""
    return schedule.steps or -(-(schedule.tokens or 0) // batch.tokens)


def _warmup_ends_before_training(schedule: Schedule, batch: Batch) -> Iterator[Problem]:
    steps = total_steps(schedule, batch)
    if schedule.warmup_steps >= steps:
        message = f"warmup_steps = {schedule.warmup_steps}, but training takes {steps} steps"
        ways = f"warmup_steps = {steps - 1} or fewer works" if steps > 1 else "train for longer"
        ways += f"; the paper warms up for {2000 / 333_000:.1%} of its steps"
        yield Problem(("schedule", "warmup_steps"), message, ways)


def _vocabulary_holds_bytes(model: Model, tokenizer: TokenizerSection) -> Iterator[Problem]:
    if tokenizer.path is None and model.vocab_size < SMALLEST_TRAINED_VOCABULARY:
        message = (
            f"vocab_size = {model.vocab_size} is too small for the 256 pieces of byte fallback"
        )
        ways = (
            f"use {SMALLEST_TRAINED_VOCABULARY} or more, or set tokenizer.path to an existing "
            "tokenizer"
        )
        yield Problem(("model", "vocab_size"), message, ways)


def _shard_holds_a_sequence(data: Data, batch: Batch) -> Iterator[Problem]:
    if data.shard_tokens <= batch.sequence_length:
        message = f"shard_tokens = {data.shard_tokens} is too small for a sequence"
        ways = f"a sequence and its next token take {batch.sequence_length + 1}"
        yield Problem(("data", "shard_tokens"), message, ways)


def _documents_lie_on_one_rank(data: Data, parallel: Parallel) -> Iterator[Problem]:
    for axis in ("context", "pipeline") if data.document_mask else ():
        if (ranks := getattr(parallel, axis)) > 1:
            message = (
                f"document_mask = true needs whole sequences on each rank, but {axis} = "
                f"{ranks} splits them"
            )
            ways = (
                f"set parallel.{axis} = 1 and use tensor or data ranks instead, or set "
                "document_mask = false"
            )
            yield Problem(("data", "document_mask"), message, ways)


def _phases_begin_while_training(data: Data, schedule: Schedule, batch: Batch) -> Iterator[Problem]:
    tokens = total_steps(schedule, batch) * batch.tokens
    for index, phase in enumerate(data.phase):
        if phase.at >= tokens:
            message = f"at = {phase.at}, but training ends after {tokens} tokens"
            yield Problem(("data", "phase", index, "at"), message, "begin earlier or train longer")


def _documents_have_an_end(data: Data, tokenizer: TokenizerSection) -> Iterator[Problem]:
    masked = data.document_mask and not data.supervised
    if masked and tokenizer.path is not None and not isinstance(tokenizer.eos, int):
        message = "document_mask = true needs the id of the token that ends a document"
        ways = "set tokenizer.eos to it; in LLaMA's tokenizer it is 2"
        yield Problem(("data", "document_mask"), message, ways)


def _chats_have_a_tokenizer(data: Data, tokenizer: TokenizerSection) -> Iterator[Problem]:
    for index, source in enumerate(data.source):
        if source.kind in CONVERSATIONS and tokenizer.path is None:
            message = f'kind = "{source.kind}" needs the tokenizer of the model to tune'
            yield Problem(("data", "source", index, "kind"), message, "set tokenizer.path")
    if tokenizer.chat_template is not None and not data.supervised:
        message = "chat_template has no effect without a supervised source"
        ways = "remove it; the template beside the tokenizer is kept for generating text"
        yield Problem(("tokenizer", "chat_template"), message, ways, at="key")


RULES: tuple[Callable[..., Iterator[Problem]], ...] = (
    _warmup_ends_before_training,
    _vocabulary_holds_bytes,
    _shard_holds_a_sequence,
    _documents_lie_on_one_rank,
    _documents_have_an_end,
    _chats_have_a_tokenizer,
    _phases_begin_while_training,
    adapters_have_a_base,
    preferences_have_a_reference,
    preferences_have_an_objective,
    pairs_stay_together,
    targets_exist,
    kernel_can_run,
    layout_fits,
    batch_divides_over_ranks,
    layers_divide_into_stages,
    nodes_are_full,
)


def broken_rules(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems between sections.

    sections: the sections that are valid by themselves, by name. Rules that read any other section
    are skipped.
    """
    for rule in RULES:
        names = list(inspect.signature(rule).parameters)
        if all(name in sections for name in names):
            yield from rule(**{name: sections[name] for name in names})
