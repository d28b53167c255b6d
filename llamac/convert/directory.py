"""Write an imported model as a directory for train, generate and export, with its spec."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import llamac
from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.model_source import ForeignModel, FrozenBase, Shapes
from llamac.convert.spec_text import spec_text
from llamac.convert.staging import staged_directory
from llamac.convert.tensors import LazyTensor, commonest_dtype
from llamac.convert.typed_table import validate_table
from llamac.convert.weights import write_weights
from llamac.passes.lower import Lower
from llamac.runtime import durable_files
from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.checkpoint.adapters import INIT_NOTE
from llamac.runtime.checkpoint.model_directory import (
    IMPORT_NOTE,
    TOKENIZER_FILES,
    is_import,
)
from llamac.runtime.tokenizers.chat_template import CHAT_TEMPLATE
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import TokenizerError
from llamac.spec import Spec, load_spec
from llamac.spec.data import SLUG
from llamac.spec.model import Model
from llamac.spec.parallel import ONE_RANK
from llamac.spec.toml.writer import to_toml


def write_import(
    source: ForeignModel,
    spec_path: Path,
    dtype: torch.dtype | None,
    overwrite: bool,
    log: Callable[[str], None],
    write_spec: Callable[[str], None],
) -> None:
    """Write `source` as an import, in a directory beside `spec_path`, its name without ".toml".

    The directory appears complete or not at all.
    dtype: dtype of the written weights; None keeps the source's.
    overwrite: whether to replace an existing import. Other directories are never replaced.
    log: called with each message for the user.
    write_spec: called with the spec's text once the directory is in place; it writes `spec_path`.
    If it raises, the directory is removed and a replaced one restored.
    Raises ConversionError if the source is damaged or unsupported, the name is invalid, or the
    directory exists and must not be replaced; OSError or RunError if writing fails.
    """
    name = spec_path.name.removesuffix(".toml")
    if not re.fullmatch(SLUG, name):
        raise ConversionError(
            f"{name!r} is not a valid name of a spec: use letters, digits, - and _"
        )
    final = spec_path.with_name(name)
    if final.exists() and not (overwrite and is_import(final)):
        way = "replace it with --overwrite, or " if is_import(final) else ""
        raise ConversionError(f"{final} exists: {way}choose another spec with -o")
    _require_ids(source, validate_table(Model, source.model, str(source.files[0])).vocab_size)
    text = ""
    with staged_directory(final, lambda: write_spec(text)) as directory:
        for file, content in source.tokenizer.items():
            (directory / file).write_bytes(content)
        tensors = source.tensors(shapes_of(_spec_of(source, directory, name)[0]))
        tensors = {name: tensor.cast(dtype) for name, tensor in tensors.items()}
        dtype_name = commonest_dtype(tensors)
        spec, text = _spec_of(source, directory, name, dtype_name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        log(f"{source.title}: {source.family}, {len(tensors):,} tensors, {size / 1e9:,.2f} GB")
        if source.tokenizer_file is None:
            log(f"it has no tokenizer: put its {' or '.join(TOKENIZER_FILES)} into {final}/")
        if source.chat_template is not None:
            (directory / CHAT_TEMPLATE).write_text(source.chat_template, encoding="utf-8")
        (directory / "spec.toml").write_text(
            _resolved_spec_text(spec, source.frozen), encoding="utf-8"
        )
        with ThreadPoolExecutor(1) as hasher:  # hashing leaves the interpreter to others
            file_hashes = hasher.submit(untrusted_files.hash_files, source.files)
            _write_checkpoint(directory, spec, tensors, source.frozen)
            note = _note(source, dtype_name, file_hashes.result())
        durable_files.write_note(directory / IMPORT_NOTE, note)


def _require_ids(source: ForeignModel, vocabulary: int) -> None:
    bos = () if source.bos is None else (source.bos,)
    for what, ids in (("bos", bos), ("begin", source.begin), ("end", source.end)):
        if invalid := [token for token in ids if token >= vocabulary]:
            raise ConversionError(
                f"{source.path}: the {what} token is {invalid[0]:,}, but the vocabulary has "
                f"{vocabulary:,} tokens"
            )


def _spec_of(source: ForeignModel, directory: Path, name: str, dtype: str = "") -> tuple[Spec, str]:
    """Return the import's spec and its TOML text. dtype: name of the weights' dtype."""
    tokenizer_file = source.tokenizer_file
    text = spec_text(
        name,
        source.model,
        title=source.title,
        tokenizer=tokenizer_file,
        eos=_eos(source, directory / tokenizer_file) if tokenizer_file else None,
        context=source.context,
        float32=source.frozen.float32 if source.frozen else dtype in ("float32", "float64"),
        finetune=source.frozen.finetune if source.frozen else {},
    )
    draft = directory / f"{name}.toml"
    draft.write_text(text, encoding="utf-8")
    spec = load_spec(str(draft))
    draft.unlink()
    return spec, text


def _eos(source: ForeignModel, tokenizer: Path) -> int | None:
    """Return the end-of-document id, or None if the tokenizer's files name it.

    Ids that are ordinary text in the tokenizer, as those of another tokenizer, are left out.
    """
    try:
        file_eos = load_tokenizer_file(tokenizer).eos
    except TokenizerError as error:
        reason = str(error).removeprefix(f"{tokenizer}: ")
        raise ConversionError(f"{tokenizer.name} of {source.title}: {reason}") from error
    for end in source.end:
        if end == file_eos:
            return None
        with suppress(TokenizerError):
            return load_tokenizer_file(tokenizer, end).eos
    return None


def _resolved_spec_text(spec: Spec, frozen: FrozenBase | None) -> str:
    """Return the text of the import's spec.toml: one process, with paths relative to the file."""
    table = spec.replace(ONE_RANK).toml_values()
    table.pop("init", None)
    if frozen:
        table["init"] = {"from": str(frozen.checkpoint)}
    table["tokenizer"]["path"] = Path(table["tokenizer"].get("path", TOKENIZER_FILES[0])).name
    return to_toml(table)


def shapes_of(spec: Spec) -> Shapes:
    """Return the unsharded shapes of all parameters, frozen ones included, by canonical name."""
    table = Lower().apply(spec).parameters
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in table.items():
        for layer in range(spec.model.n_layers) if "*" in name else (0,):
            shape = tuple(size for size in parameter.type.shape if isinstance(size, int))
            shapes[name.replace("*", str(layer))] = shape
    return shapes


def _write_checkpoint(
    directory: Path, spec: Spec, tensors: dict[str, LazyTensor], frozen: FrozenBase | None
) -> None:
    path = checkpoint.checkpoint_path(directory, 0)
    written = write_weights(path / "tensors", tensors)
    table = tomllib.loads(spec.to_toml())
    curve = {"model": table["model"]}
    if frozen:
        sha256 = durable_files.sha256_of(frozen.checkpoint / "MANIFEST.json")
        curve |= {"finetune": table["finetune"], "init": sha256}
        note = {"checkpoint": str(frozen.checkpoint), "weights_sha256": sha256}
        durable_files.write_note(directory / INIT_NOTE, note)
    state = checkpoint.checkpoint_state(checkpoint.Progress(), curve, "")
    state |= {"weights_only": True, "random": [state["random"]]}
    checkpoint.finalize(path, state, [{f"tensors/{n}": entry for n, entry in written.items()}])


def _note(source: ForeignModel, dtype: str, hashes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "llamac": llamac.__version__,
        "family": source.family,
        "title": source.title,
        "files": hashes,
        "dtype": dtype,
        "bos": source.bos,
        "begin": list(source.begin),
        "end": list(source.end),
        "context": source.context,
        "generation": dict(source.generation),
    }
