"""Load the weights and the tokenizer of a run or an import for inference.

These functions write no files, so a run can be read while its trainer is running.
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
from .adapters import find_base_weights
from .same_settings import changed_keys


class BadRequest(RunError):
    """The user asked for something that does not exist, such as a checkpoint.

    Generation exits with code 2 on it, and with 1 on other RunErrors.
    """


def read_prompt(argument: str) -> str:
    """Return the prompt given on a command line; "-" reads standard input.

    Raises BadRequest if it is not UTF-8.
    """
    try:
        if argument == "-":
            return sys.stdin.buffer.read().decode()
        argument.encode()  # bytes of a command line that are not text arrive as lone surrogates
        return argument
    except UnicodeError as error:
        raise BadRequest(f"the prompt is not UTF-8: {error}") from error


def choose_checkpoint(run: Path, which: str, log: checkpoint.Log) -> Path:
    """Return the path of a checkpoint of `run` after verifying its checksums.

    which: "newest" (the newest undamaged one; damaged ones are reported to `log`), a step, or the
    path of a checkpoint. Raises BadRequest if it does not exist, RunError if it is damaged.
    """
    own = checkpoint.steps(run)
    if which == "newest":
        if not own:
            raise BadRequest(f"{run} has no checkpoint yet: train it until it saves one")
        if newest := checkpoint.newest_undamaged(run, log):
            return newest
        raise RunError(
            f"every checkpoint of {run} is damaged or incomplete: restore one from a backup"
        )
    path = checkpoint.checkpoint_path(run, int(which)) if which.isdecimal() else Path(which)
    if not path.is_dir():
        available = ", ".join(map(str, own)) or "no step yet"
        raise BadRequest(f"{run} has no checkpoint {which}: its checkpoints are of {available}")
    if problem := integrity.damage(path):
        raise RunError(f"checkpoint {path} is damaged: {problem}")
    return path


@torch.no_grad()
def load_weights(
    path: Path, model: nn.Module, packed: Mapping[str, Pieces], settings: Mapping[str, Any]
) -> None:
    """Load the checkpoint at `path` into `model` in place, rounding to the model's dtype.

    Reads one tensor at a time and no optimizer state, so memory stays near the model's size. Frozen
    weights of adapters come from their base's checkpoint. packed: name of a packed parameter → its
    canonical pieces; others are canonical. settings: [model] section that the checkpoint must have.
    Raises RunError if it has another, or if tensors cannot be read.
    """
    saved = integrity.read_state(path)["curve"].get("model", {})
    if changed := changed_keys(saved, settings):
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
        checkpoint.load(find_base_weights(path), {"model": frozen})


def read_chat_settings(directory: Path) -> dict[str, Any]:
    """Return the chat settings in the manifest of prepared supervised data; {} for other data.

    directory: directory of the prepared data; {} also if it has no manifest. Keys: bos: text of the
    BOS token. begin: ids that every text begins with. end: ids that end an answer. template_sha256:
    hash of the chat template. Raises RunError if the manifest is damaged.
    """
    if not (directory / "manifest.json").is_file():
        return {}
    return read_manifest(directory)["tokenizer"].get("chat", {})


def load_tokenizer(directory: Path, path: Path) -> Tokenizer:
    """Load the tokenizer in a directory of prepared data, for the checkpoint at `path`.

    Raises RunError if the tokenizer is missing or damaged, or if the directory has a manifest of
    other data than the checkpoint was trained on.
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
        same_pieces = tokenizer.pieces_sha256 == prepared["tokenizer"]["pieces_sha256"]
        if not same_pieces or prepared["sha256"] != trained_on:
            raise RunError(
                f"{directory} was prepared again after {path.name} was saved: restore "
                "the earlier data"
            )
    return tokenizer
