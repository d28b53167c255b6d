"""Load the weights and the tokenizer of a run or an import for inference.

Nothing here writes, so a run can be read while its trainer writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.prepared import read_manifest
from ..errors import RunError
from ..parameters import Pieces, canonical_views
from ..tokenizers.loading import load_tokenizer_file
from ..tokenizers.tokenizer import Tokenizer, TokenizerError
from . import checkpoint, integrity
from .adapters import frozen_weights_of
from .same_settings import changed_keys


class BadRequest(RunError):
    """The request is invalid, such as for a checkpoint that does not exist; exit code 2."""


def read_prompt(argument: str) -> str:
    """Return the prompt of a command line; "-" reads standard input."""
    try:
        if argument == "-":
            return sys.stdin.buffer.read().decode()
        argument.encode()  # bytes of a command line that are not text arrive as lone surrogates
        return argument
    except UnicodeError as error:
        raise BadRequest(f"the prompt is not UTF-8: {error}") from error


def choose(run: Path, which: str, log: checkpoint.Log) -> Path:
    """Return the checkpoint of `run` that `which` names.

    which: "newest" (the newest undamaged one; damaged ones are reported to `log`), a step, or a
    path. Raises BadRequest, or RunError if it is damaged.
    """
    own = checkpoint.steps(run)
    if which == "newest":
        if not own:
            raise BadRequest(f"{run} has no checkpoint yet: train it until it saves one")
        if newest := checkpoint.newest_whole(run, log):
            return newest
        raise RunError(
            f"every checkpoint of {run} is damaged or incomplete: restore one from a backup"
        )
    path = checkpoint.checkpoint_path(run, int(which)) if which.isdecimal() else Path(which)
    if not path.is_dir():
        there = ", ".join(map(str, own)) or "no step yet"
        raise BadRequest(f"{run} has no checkpoint {which}: its checkpoints are of {there}")
    if problem := integrity.damage(path):
        raise RunError(f"checkpoint {path} is damaged: {problem}")
    return path


@torch.no_grad()
def load_weights(
    path: Path, model: nn.Module, packed: Mapping[str, Pieces], of: Mapping[str, Any]
) -> None:
    """Load the checkpoint at `path` into `model`, rounding to the model's dtype.

    Reads one tensor at a time and no optimizer moments, so memory stays near the model's size.
    `of` is the [model] that the checkpoint must have been trained as. Raises RunError.
    """
    if changed := changed_keys(integrity.read_state(path)["curve"].get("model", {}), of):
        raise RunError(
            f"{path} holds another model ({', '.join(changed)}): use the trainer that wrote it"
        )
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        views = trained if parameter.requires_grad else frozen
        views |= canonical_views(name, parameter.detach(), packed)
    try:
        checkpoint.load(path, {"model": trained})
    except RunError as error:
        raise RunError(f"{error}; if a trainer deleted it just now, try again") from error
    if frozen:
        checkpoint.load(frozen_weights_of(path), {"model": frozen})


def chat_of(directory: Path) -> dict[str, Any]:
    """Return the chat settings of prepared supervised data; empty for other data or none.

    bos: text of BOS. begin: ids that begin a text. end: id that ends an answer. Raises RunError.
    """
    if not (directory / "manifest.json").is_file():
        return {}
    return read_manifest(directory)["tokenizer"].get("chat", {})


def load_tokenizer(directory: Path, path: Path) -> Tokenizer:
    """Return the tokenizer in a directory of prepared data, for the weights at `path`.

    If the directory has a manifest, it must be of the data on which the weights were trained, so
    that the tokenizer matches. Raises RunError.
    """
    file, manifest = directory / "tokenizer.model", directory / "manifest.json"
    if not file.is_file():
        raise RunError(
            f"the run's tokenizer is not at {file.absolute()}: put it there, or, if "
            "data.directory is relative, run this command in the directory in which training was "
            "started"
        )
    try:
        tokenizer = load_tokenizer_file(file)
    except TokenizerError as error:
        raise RunError(str(error)) from error
    if manifest.is_file():
        prepared = read_manifest(directory)
        trained_on = integrity.read_state(path)["curve"]["prepared_data"]
        same = tokenizer.pieces_sha256 == prepared["tokenizer"]["pieces_sha256"]
        if not same or prepared["sha256"] != trained_on:
            raise RunError(
                f"{directory} was prepared again after {path.name} was saved: restore "
                "the earlier data"
            )
    return tokenizer
