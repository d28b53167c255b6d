"""Open the directory of a trained model: a run, or an import by `llamac import`.

NAME/
    import.json     imports only: family, hashes of the source's files, dtype, special
                    tokens, context, the authors' generation settings
    init.json       runs that began from other weights: which ones, and the same settings;
                    imported adapters: their base weights
    spec.toml       resolved spec of the weights
    checkpoints/    see `checkpoint`; an import has only step 0, without optimizer state
    tokenizer.json, tokenizer.model, tokenizer_config.json    imports: copies of the source's files
    data/           runs: prepared data, with tokenizer.model and, for supervised data, the chat
                    template
    chat_template.jinja    if the source has one
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable_files
from ..errors import RunError
from ..tokenizers.chat_template import CHAT_TEMPLATE
from ..tokenizers.loading import load_tokenizer_file
from ..tokenizers.tokenizer import Tokenizer, TokenizerError
from . import checkpoint, load_run
from .adapters import INIT_NOTE

IMPORT_NOTE = "import.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")  # the first one that exists is used


@dataclass(frozen=True)
class ModelDirectory:
    """A model for inference: paths of its files, its tokenizer and generation settings.

    Attributes:
        directory: the run or import.
        checkpoint: directory of the checkpoint that holds the weights.
        spec: resolved spec, as TOML values.
        tokenizer: None if there is none and it was not required.
        tokenizer_file: file from which the tokenizer was loaded; None without a tokenizer.
        chat_template: text of the Jinja template; None if there is none.
        begin: ids that every text begins with.
        end: ids each of which ends a text.
        context: largest number of positions that the model supports.
        generation: temperature, top_p, top_k, min_p, repetition_penalty and do_sample, as far as
            the authors of an imported model specify them.
        bos_text: text of the BOS token, for chat templates; empty if there is none.
        note: contents of import.json or init.json; empty for a run with random initial weights.
    """

    directory: Path
    checkpoint: Path
    spec: Mapping[str, Any]
    tokenizer: Tokenizer | None
    tokenizer_file: Path | None
    chat_template: str | None
    begin: tuple[int, ...]
    end: tuple[int, ...]
    context: int
    generation: Mapping[str, Any]
    bos_text: str
    note: Mapping[str, Any]

    @property
    def bos(self) -> int | None:
        """Return the id of the BOS token; None if unknown.

        It is the first id of `begin`, or else, of an import, the one in import.json.
        """
        source_bos = self.note.get("bos") if self.imported else None
        return next(iter(self.begin), source_bos)

    @property
    def imported(self) -> bool:
        """Return whether the model is an import, not a run."""
        return is_import(self.directory)


def is_import(directory: Path) -> bool:
    """Return whether `llamac import` wrote the directory: it has an import.json."""
    return (directory / IMPORT_NOTE).is_file()


def open_model(
    directory: Path,
    which: str,
    log: checkpoint.Log,
    data: Path | None = None,
    need_tokenizer: bool = True,
    spec: Mapping[str, Any] | None = None,
) -> ModelDirectory:
    """Open a run or an import for inference; weights are not loaded yet.

    Args:
        directory: the run or import.
        which: "newest" (the newest undamaged checkpoint), a step, or the path of a checkpoint.
        log: receives messages about damaged checkpoints.
        data: directory of the run's prepared data; None for the one in its spec.
        need_tokenizer: whether a missing tokenizer is an error.
        spec: resolved spec; None reads spec.toml.

    Raises:
        BadRequest: the checkpoint or spec.toml does not exist.
        RunError: files are damaged, or the tokenizer is missing or belongs to other data.
    """
    path = load_run.choose_checkpoint(directory, which, log)
    spec = read_spec(directory) if spec is None else spec
    length, note = spec["batch"]["sequence_length"], model_note(directory)
    chat, home = dict[str, Any](), directory
    if is_import(directory):
        file = next((f for n in TOKENIZER_FILES if (f := directory / n).is_file()), None)
        tokenizer = _import_tokenizer(directory, file, spec) if file or need_tokenizer else None
        begin, end = tuple(note["begin"]), tuple(note["end"])
        if not end and tokenizer and tokenizer.eos >= 0:
            end = (tokenizer.eos,)
    else:
        place = data or Path(spec["data"].get("directory") or directory / "data")
        file = place / "tokenizer.model"
        has_tokenizer = need_tokenizer or file.is_file()
        tokenizer = load_run.load_tokenizer(place, path) if has_tokenizer else None
        own = (tokenizer.eos,) if tokenizer and tokenizer.eos >= 0 else ()
        chat = load_run.read_chat_settings(place)
        begin = tuple(chat.get("begin", own))
        end = tuple(dict.fromkeys([*own, *chat.get("end", ()), *note.get("end", ())]))
        home = place if chat.get("template_sha256") else directory
    template = home / CHAT_TEMPLATE
    return ModelDirectory(
        directory=directory,
        checkpoint=path,
        spec=spec,
        tokenizer=tokenizer,
        tokenizer_file=file if tokenizer else None,
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
        begin=begin,
        end=end,
        bos_text=chat.get("bos", _bos_text(tokenizer, begin, note)),
        context=max(length, note.get("context", 0)),
        generation=note.get("generation", {}),
        note=note,
    )


def _bos_text(tokenizer: Tokenizer | None, begin: Sequence[int], note: Mapping[str, Any]) -> str:
    ids = (*begin, note.get("bos"), tokenizer.bos) if tokenizer else ()
    bos = next((i for i in ids if i is not None and i >= 0), None)
    return tokenizer.piece(bos) if tokenizer and bos is not None else ""


def read_spec(directory: Path) -> dict[str, Any]:
    """Return spec.toml of the run or import at `directory`, parsed.

    Raises BadRequest if there is none, RunError if it cannot be read or is not valid TOML.
    """
    path = directory / "spec.toml"
    if not path.is_file():
        raise load_run.BadRequest(
            f"{directory} is neither a run nor an import: it has no spec.toml; create a run with "
            "`llamac train`, or an import with `llamac import`"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def model_note(directory: Path) -> dict[str, Any]:
    """Return the contents of a run's or import's import.json, or else init.json; {} without either.

    Raises RunError if the file cannot be read or does not match the hash that it contains.
    """
    path = directory / (IMPORT_NOTE if is_import(directory) else INIT_NOTE)
    try:
        return durable_files.read_note(path) or {}
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _import_tokenizer(directory: Path, file: Path | None, spec: Mapping[str, Any]) -> Tokenizer:
    if file is None:
        raise RunError(
            f"{directory} has no tokenizer, because the imported model had none: put its "
            "tokenizer.json or tokenizer.model there"
        )
    try:
        return load_tokenizer_file(file, spec.get("tokenizer", {}).get("eos"))
    except TokenizerError as error:
        raise RunError(str(error)) from error
