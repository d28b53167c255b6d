"""Load a trained model with its emitted inference program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llamac.emit.importing import import_emitted
from llamac.emit.trusted import trusted_program
from llamac.runtime import durable_files, machine
from llamac.runtime.checkpoint.load_run import load_weights
from llamac.runtime.checkpoint.model_directory import ModelDirectory, open_model
from llamac.runtime.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model loaded for evaluation.

    directory: its run or import. make: function of (rows, positions) that returns an emitted
    Inference with a cache of that size. device: where its weights are. context: maximum number of
    positions.
    """

    directory: ModelDirectory
    tokenizer: Tokenizer
    make: Callable[[int, int], Any]
    device: torch.device
    context: int

    @property
    def begin(self) -> tuple[int, ...]:
        """Return the ids that begin every text."""
        return self.directory.begin

    @property
    def prefix(self) -> int:
        """Return the id that precedes a text without context, so that its first token has a score.

        It is the last of `begin`, or else the first that exists of BOS, EOS and 0.
        """
        if self.begin:
            return self.begin[-1]
        return next(t for t in (self.bos, self.tokenizer.bos, self.tokenizer.eos, 0) if t >= 0)

    @property
    def bos(self) -> int:
        """Return the id of the BOS token that tokenizer_config.json names, or -1."""
        file = self.directory.tokenizer_file
        config = (file.parent / "tokenizer_config.json") if file else None
        if config is None or not config.is_file():
            return -1
        token = durable_files.read_json(config).get("bos_token")
        token = token.get("content") if isinstance(token, dict) else token
        pieces = (t for t in range(self.tokenizer.vocab_size) if self.tokenizer.piece(t) == token)
        return next(pieces, -1)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without begin tokens."""
        return [int(token) for token in self.tokenizer.encode(text)]


def open_for_evaluation(
    run: Path, checkpoint: str, log: Callable[[str], None], context: int | None = None
) -> LoadedModel:
    """Load the model of a run or an import, and set torch's number of threads to the program's.

    checkpoint: "newest", a step or a path. log: called with each message for the user. context:
    maximum number of positions, if less than the model's. Raises RunError if files are missing or
    damaged, UntrustedError if the program is not what llamac emits, and the errors of load_spec.
    """
    with import_emitted(trusted_program(run), "generate") as module:
        program = module.PROGRAM
    data = Path(program.data) if program.data else None
    opened = open_model(run, checkpoint, log, data, spec=program.spec)
    assert opened.tokenizer is not None
    device = machine.choose_device(program.device)
    torch.set_num_threads(program.threads or torch.get_num_threads())
    model = program.model(device=device, dtype=program.dtype)
    load_weights(opened.checkpoint, model, program.packed, program.spec["model"])
    program.pack(model)
    longest = opened.context if program.longer else program.sample["context"]
    return LoadedModel(
        opened,
        opened.tokenizer,
        partial(program.inference, model),
        device,
        min(longest, context or longest),
    )
