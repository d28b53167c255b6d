"""Import Hugging Face model directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.hf.config_export import family_of
from llamac.convert.hf.config_import import model_of, read_config
from llamac.convert.hf.safetensors_file import read_safetensors
from llamac.convert.hf.tokenizer_files import chat_template_of, hf_prefix_ids, read_tokenizer_files
from llamac.convert.meta.pth import read_pth
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import hf_name
from llamac.convert.tensors import LazyTensor, require_tensors
from llamac.convert.typed_table import Number, Table, TokenId, validate_table

READERS = {".safetensors": read_safetensors, ".bin": read_pth}
"""Functions that open a weight file, by suffix."""

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of an unsharded weight file, preferred first; a sharded model has NAME.index.json."""


class GenerationConfig(Table):
    """Keys of generation_config.json that an import preserves; None if absent.

    eos_token_id: ids that end a text, which take precedence over those of config.json.
    """

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Number | None = None
    do_sample: bool | None = None
    eos_token_id: TokenId | list[TokenId] | None = None


def open_hf(directory: Path) -> ForeignModel:
    """Open a Hugging Face model directory, without reading its weights.

    Raises ConversionError if files are missing, damaged or of an unsupported model.
    """
    where = untrusted_files.path_inside(directory, "config.json")
    table = untrusted_files.read_json(where)
    family, config = family_of(table, str(where)), read_config(table, str(where))
    model = model_of(family, config, str(where))
    files, file_of = _weight_files(directory)
    settings = _generation(directory)
    ends = settings.eos_token_id if "eos_token_id" in settings.model_fields_set else None
    ends = config.eos_token_id if ends is None else ends
    tokenizer = read_tokenizer_files(directory)
    return ForeignModel(
        family=family,
        title=directory.resolve().name,
        model=model,
        tensors=lambda shapes: _tensors(directory, files, file_of, shapes),
        files=(where, *files),
        context=config.max_position_embeddings,
        tokenizer=tokenizer,
        bos=config.bos_token_id,
        begin=hf_prefix_ids(directory, tokenizer, config.bos_token_id),
        end=tuple(ends if isinstance(ends, list) else [ends] if ends is not None else []),
        chat_template=chat_template_of(directory, tokenizer),
        generation=settings.model_dump(exclude={"eos_token_id"}, exclude_none=True),
    )


def _generation(directory: Path) -> GenerationConfig:
    name = "generation_config.json"
    if not (directory / name).exists():
        return GenerationConfig()
    path = untrusted_files.path_inside(directory, name)
    return validate_table(GenerationConfig, untrusted_files.read_json(path), str(path))


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, Path] | None]:
    """Return (weight files, file of each tensor by name or None if there is no index)."""
    for name in SINGLE_FILES:
        index = directory / f"{name}.index.json"
        if (directory / name).exists():
            return [untrusted_files.path_inside(directory, name)], None
        if index.exists():
            index_file = untrusted_files.path_inside(directory, index.name)
            weight_map = untrusted_files.read_json(index_file).get("weight_map")
            if not isinstance(weight_map, dict) or not all(
                isinstance(n, str) for n in weight_map.values()
            ):
                raise ConversionError(f"{index} has no weight_map of tensors to files")
            paths = {
                n: untrusted_files.path_inside(directory, n)
                for n in dict.fromkeys(weight_map.values())
            }
            return [*paths.values()], {tensor: paths[file] for tensor, file in weight_map.items()}
    raise ConversionError(
        f"{directory} has neither {' nor '.join(SINGLE_FILES)}, nor an index of such files"
    )


def _tensors(
    directory: Path, files: Sequence[Path], file_of: Mapping[str, Path] | None, shapes: Shapes
) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        if path.suffix not in READERS:
            raise ConversionError(f"{path} is neither a .safetensors nor a .bin file")
        stored = READERS[path.suffix](path)
        if file_of is not None:
            _require_listed(path, stored, {name for name in file_of if file_of[name] == path})
        tensors |= stored
    # Buffers that transformers saved up to version 4.31; they are computed anew.
    tensors = {name: t for name, t in tensors.items() if not name.endswith(".rotary_emb.inv_freq")}
    expected = {hf_name(name): shape for name, shape in shapes.items()}
    if "output" not in shapes:
        _drop_tied_head(tensors)
    require_tensors(tensors, expected, str(directory))
    return {name: tensors[hf_name(name)] for name in shapes}


def _require_listed(path: Path, stored: Mapping[str, LazyTensor], listed: set[str]) -> None:
    if missing := sorted(listed - stored.keys()):
        raise ConversionError(
            f"{path} does not contain {missing[0]}, although the index lists it there"
        )
    if extra := sorted(stored.keys() - listed):
        raise ConversionError(f"{path} contains {extra[0]}, which the index does not list there")


def _drop_tied_head(tensors: dict[str, LazyTensor]) -> None:
    """Remove an output head equal to the embedding; raise ConversionError if it differs."""
    head, table = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if head is None or table is None:
        return
    if not head.equals(table):
        raise ConversionError(
            f"{head.where} differs from the embedding, although config.json sets "
            "tie_word_embeddings = true: set it to false, or remove the tensor"
        )
    del tensors["lm_head.weight"]
