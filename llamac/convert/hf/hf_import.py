"""Import Hugging Face model directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.hf.hf_config import family_of, model_of
from llamac.convert.hf.safetensors_file import read_safetensors
from llamac.convert.hf.tokenizer_files import begins_with, chat_template_of, passed_through
from llamac.convert.meta.pth import read_pth
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import hf_name
from llamac.convert.tensors import Stored, require_tensors

READERS = {".safetensors": read_safetensors, ".bin": read_pth}
WHOLE = ("model.safetensors", "pytorch_model.bin")
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "do_sample")
"""Keys of generation_config.json that an import keeps."""


def open_hf(directory: Path) -> ForeignModel:
    """Describe the model in a Hugging Face directory. Raises ConversionError."""
    where = untrusted_files.inside(directory, "config.json")
    config = untrusted_files.read_json(where)
    found = _weight_files(directory)
    settings = _optional_json(directory, "generation_config.json")
    end = settings.get("eos_token_id", config.get("eos_token_id"))
    tokenizer = passed_through(directory)
    return ForeignModel(
        family=family_of(config, str(where)),
        title=directory.resolve().name,
        model=model_of(config, str(where)),
        tensors=lambda shapes: _tensors(directory, found, shapes),
        files=(where, *dict.fromkeys(found.values())),
        context=config.get("max_position_embeddings") or 2048,
        tokenizer=tokenizer,
        begin=begins_with(tokenizer, config.get("bos_token_id")),
        end=_ids(end, f"eos_token_id of {directory}"),
        chat_template=chat_template_of(directory, tokenizer),
        generation={key: settings[key] for key in SETTINGS if settings.get(key) is not None},
    )


def _ids(value: Any, where: str) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(one) is int and 0 <= one < 2**31 for one in ids):
        raise ConversionError(f"{where} is {value!r}, which is no id of a token")
    return tuple(ids)


def _optional_json(directory: Path, name: str) -> dict[str, Any]:
    if not (directory / name).exists():
        return {}
    return untrusted_files.read_json(untrusted_files.inside(directory, name))


def _weight_files(directory: Path) -> dict[str, Path]:
    """Return which file holds which tensor: by the index where there is one, else "" → the file."""
    for name in WHOLE:
        index = directory / f"{name}.index.json"
        if (directory / name).exists():
            return {"": untrusted_files.inside(directory, name)}
        if index.exists():
            index_file = untrusted_files.inside(directory, index.name)
            listed = untrusted_files.read_json(index_file).get("weight_map")
            if not isinstance(listed, dict) or not all(isinstance(n, str) for n in listed.values()):
                raise ConversionError(f"{index} has no weight_map of tensors to files")
            paths = {
                n: untrusted_files.inside(directory, n) for n in dict.fromkeys(listed.values())
            }
            return {tensor: paths[file] for tensor, file in listed.items()}
    raise ConversionError(f"{directory} has no {' or '.join(WHOLE)}, nor an index of such files")


def _tensors(directory: Path, places: Mapping[str, Path], shapes: Shapes) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for path in dict.fromkeys(places.values()):
        if path.suffix not in READERS:
            raise ConversionError(f"{path} is neither a .safetensors nor a .bin file")
        held = READERS[path.suffix](path)
        if "" not in places:
            _require_listed(path, held, {name for name in places if places[name] == path})
        found |= held
    # Buffers that transformers saved up to version 4.31; they are computed anew.
    found = {name: t for name, t in found.items() if not name.endswith(".rotary_emb.inv_freq")}
    wanted = {hf_name(name): shape for name, shape in shapes.items()}
    if "output" not in shapes:
        _drop_tied_head(found)
    require_tensors(found, wanted, str(directory))
    return {name: found[hf_name(name)] for name in shapes}


def _require_listed(path: Path, held: Mapping[str, Stored], listed: set[str]) -> None:
    if missing := sorted(listed - held.keys()):
        raise ConversionError(f"{path} does not hold {missing[0]}, which the index says it does")
    if extra := sorted(held.keys() - listed):
        raise ConversionError(f"{path} holds {extra[0]}, which the index does not list there")


def _drop_tied_head(found: dict[str, Stored]) -> None:
    """Leave out a head that is the embedding once more; another one cannot be tied."""
    head, table = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    if head is None or table is None:
        return
    if not head.equals(table):
        raise ConversionError(
            f"{head.where} is not the embedding, though config.json says tie_word_embeddings: "
            "set that to false, or remove the tensor"
        )
    del found["lm_head.weight"]
