"""Import Meta's checkpoints: params.json and one consolidated.NN.pth per model-parallel rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.meta.pth import read_pth
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import meta_name
from llamac.convert.tensors import LazyTensor, require_tensors
from llamac.convert.typed_table import Number, Size, Table, validate_table
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tiktoken_file import is_tiktoken
from llamac.runtime.tokenizers.tokenizer import TokenizerError

FIRST, SECOND = 0, 1  # dimensions of a weight
SPLIT = {  # the dim that model-parallel ranks split (llama/model.py); norms are replicated
    "attention.wq": FIRST,
    "attention.wk": FIRST,
    "attention.wv": FIRST,
    "attention.wo": SECOND,
    "feed_forward.w1": FIRST,
    "feed_forward.w2": SECOND,
    "feed_forward.w3": FIRST,
    "output": FIRST,
}
TABLE = "tok_embeddings"
"""Embedding, which ranks split along SECOND up to Llama 2, and along FIRST since Llama 3."""

LLAMA3 = (128_000, (128_001, 128_008, 128_009))  # BOS; end of text, of a message, of a turn


class Params(Table):
    """Contents of params.json, the arguments of Meta's model. Unknown keys are errors.

    multiple_of, ffn_dim_multiplier: settings of `ffn_dim`. rope_scaling_factor and the following:
    Llama 3's RoPE scaling, used if use_scaled_rope. max_seq_len: `context`, in tokens.
    max_batch_size: ignored.
    """

    model_config = ConfigDict(extra="forbid")

    dim: Size
    n_layers: Size
    n_heads: Size
    n_kv_heads: Size | None = None
    vocab_size: Annotated[int, Field(ge=-1, lt=2**31)] = -1  # -1: the tokenizer's
    multiple_of: Size | None = None
    ffn_dim_multiplier: Number | None = None
    norm_eps: Number = 1e-5
    rope_theta: Number = 10_000.0
    use_scaled_rope: bool = False
    max_seq_len: Size | None = None
    max_batch_size: Size | None = None
    rope_scaling_factor: Number = 8.0
    rope_low_freq_factor: Number = 1.0
    rope_high_freq_factor: Number = 4.0
    rope_original_context: Size = 8192

    @property
    def context(self) -> int:
        """Return the context length; if params.json lacks it, that of the published model."""
        if self.max_seq_len:
            return self.max_seq_len
        if self.use_scaled_rope:
            return 131_072
        return 8192 if self.rope_theta == 500_000.0 else 2048

    @property
    def ffn_dim(self) -> int | None:
        """Return the FFN width by Meta's rule: 8/3 · dim · ffn_dim_multiplier, rounded up.

        It is rounded up to a multiple of multiple_of; None if params.json has no multiple_of.
        """
        if self.multiple_of is None:
            return None
        rows = int((self.ffn_dim_multiplier or 1.0) * int(2 * (4 * self.dim) / 3))
        return self.multiple_of * -(-rows // self.multiple_of)


def open_meta(directory: Path) -> ForeignModel:
    """Open a directory of Meta's format, without reading its weights.

    Raises ConversionError if files are missing, damaged or of an unsupported model.
    """
    where = untrusted_files.path_inside(directory, "params.json")
    params = validate_table(Params, untrusted_files.read_json(where), str(where))
    paths = [
        untrusted_files.path_inside(directory, p.name)
        for p in sorted(directory.glob("consolidated.*.pth"))
    ]
    if not paths:
        raise ConversionError(f"{directory} has no consolidated.00.pth")
    if [path.name for path in paths] != [f"consolidated.{n:02d}.pth" for n in range(len(paths))]:
        raise ConversionError(f"{directory} lacks one of its consolidated.NN.pth files")
    parts = [_read_part(path) for path in paths]
    tokenizer = {}
    if (directory / "tokenizer.model").exists():
        tokenizer["tokenizer.model"] = untrusted_files.path_inside(
            directory, "tokenizer.model"
        ).read_bytes()
    tiktoken = is_tiktoken(tokenizer.get("tokenizer.model", b""))
    bos, end = None, ()
    if tokenizer:
        bos, end = LLAMA3 if tiktoken else _bos_and_eos(directory / "tokenizer.model")
    return ForeignModel(
        family="llama",
        title=directory.resolve().name,
        model=_model_of(params, parts, where),
        tensors=lambda shapes: _tensors(parts, shapes, directory),
        files=(where, *paths),
        context=params.context,
        tokenizer=tokenizer,
        bos=bos,
        begin=() if bos is None else (bos,),
        end=end,
    )


def _bos_and_eos(path: Path) -> tuple[int | None, tuple[int, ...]]:
    """Return (BOS id or None, EOS ids) of a SentencePiece model."""
    try:
        tokenizer = load_tokenizer_file(path)
    except TokenizerError as error:
        raise ConversionError(str(error)) from error
    bos = tokenizer.bos if tokenizer.bos >= 0 else None
    return bos, (tokenizer.eos,) if tokenizer.eos >= 0 else ()


def _read_part(path: Path) -> dict[str, LazyTensor]:
    """Return a file's tensors, without the `rope.freqs` of older files, which is recomputed."""
    return {name: tensor for name, tensor in read_pth(path).items() if name != "rope.freqs"}


def _model_of(
    params: Params, parts: Sequence[Mapping[str, LazyTensor]], where: Path
) -> dict[str, Any]:
    first = parts[0]
    required = {name: first.get(meta_name(name)) for name in (TABLE, "layers.0.feed_forward.w1")}
    for name, tensor in required.items():
        if tensor is None or len(tensor.shape) != 2:
            raise ConversionError(f"consolidated.00.pth beside {where} lacks {meta_name(name)}")
    table, w1 = required[TABLE], required["layers.0.feed_forward.w1"]
    assert table is not None
    assert w1 is not None
    by_rows = table.shape[1] == params.dim
    vocabulary = table.shape[0] * (len(parts) if by_rows else 1)
    ffn_dim = w1.shape[0] * len(parts)
    if params.vocab_size not in (-1, vocabulary):
        raise ConversionError(
            f"{where}: vocab_size = {params.vocab_size:,}, but {table.where} has {vocabulary:,} "
            "rows"
        )
    if params.ffn_dim not in (None, ffn_dim):
        raise ConversionError(
            f"{where}: multiple_of and ffn_dim_multiplier give a width of {params.ffn_dim:,}, but "
            f"{w1.where} has {ffn_dim:,} rows"
        )
    model: dict[str, Any] = {
        "dim": params.dim,
        "n_layers": params.n_layers,
        "n_heads": params.n_heads,
        "n_kv_heads": params.n_kv_heads or params.n_heads,
        "vocab_size": vocabulary,
        "ffn_dim": ffn_dim,
        "norm_eps": params.norm_eps,
        "rope_theta": params.rope_theta,
        "tied_embeddings": _is_tied(parts),
    }
    if params.use_scaled_rope:
        model["rope_scaling"] = {
            "kind": "llama3",
            "factor": params.rope_scaling_factor,
            "low_freq_factor": params.rope_low_freq_factor,
            "high_freq_factor": params.rope_high_freq_factor,
            "original_context": params.rope_original_context,
        }
    return model


def _is_tied(parts: Sequence[Mapping[str, LazyTensor]]) -> bool:
    """Return whether output projection and embedding are equal; Meta's files contain both."""
    pairs = [(part.get(meta_name(TABLE)), part.get("output.weight")) for part in parts]
    if all(output is None for _, output in pairs):
        return True
    return len(parts) == 1 and all(
        table is not None and output is not None and table.equals(output) for table, output in pairs
    )


def _tensors(
    parts: Sequence[Mapping[str, LazyTensor]], shapes: Shapes, directory: Path
) -> dict[str, LazyTensor]:
    """Return the full tensors: the ranks' parts joined, or the first rank's copy of a replica."""
    unused = {"output.weight"} if "output" not in shapes else set()
    joined: dict[str, LazyTensor] = {}
    for name in parts[0]:
        copies = [part[name] for part in parts if name in part]
        if len(copies) < len(parts):
            raise ConversionError(
                f"{copies[0].where} is missing in another consolidated.NN.pth of the directory"
            )
        if len({(tensor.shape, tensor.dtype) for tensor in copies}) > 1:
            raise ConversionError(
                f"{copies[0].where} has different shapes in other consolidated.NN.pth files"
            )
        if name not in unused:
            canonical = name.removesuffix(".weight")
            joined[name] = _join_parts(copies, _dim(canonical, copies[0], shapes))
    for part in parts[1:]:
        if extra := sorted(part.keys() - parts[0].keys()):
            raise ConversionError(f"{part[extra[0]].where} is not in consolidated.00.pth")
    require_tensors(joined, {meta_name(n): shape for n, shape in shapes.items()}, str(directory))
    return {name: joined[meta_name(name)] for name in shapes}


def _dim(canonical: str, part: LazyTensor, shapes: Shapes) -> int | None:
    """Return the dimension along which ranks split a tensor, or None for replicas."""
    if canonical == TABLE:
        shape = shapes.get(TABLE, part.shape)
        return SECOND if part.shape[0] == shape[0] else FIRST
    stem = canonical.split(".", 2)[2] if canonical.startswith("layers.") else canonical
    return SPLIT.get(stem)


def _join_parts(parts: Sequence[LazyTensor], dim: int | None) -> LazyTensor:
    first = parts[0]
    if len(parts) == 1 or dim is None or len(first.shape) <= dim:
        return first
    shape = [*first.shape]
    shape[dim] *= len(parts)

    def read() -> torch.Tensor:
        return torch.cat([part.read() for part in parts], dim)

    return LazyTensor(first.dtype, tuple(shape), first.where, read)
