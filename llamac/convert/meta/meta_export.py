"""Export to Meta's format: params.json and consolidated.NN.pth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from llamac.convert.errors import ConversionError
from llamac.convert.hf.config_export import LLAMA
from llamac.convert.hf.tokenizer_export import is_sentencepiece
from llamac.convert.meta.meta_import import FIRST, SECOND, SPLIT, TABLE
from llamac.convert.meta.pth import write_pth
from llamac.convert.names import meta_name, reorder_rows
from llamac.convert.tensors import LazyTensor
from llamac.convert.trained_model import TrainedModel
from llamac.runtime.tokenizers.sentencepiece_file import with_bos
from llamac.spec.model import Model

META = {**LLAMA, "bias": False, "qk_norm": False, "sliding_window": None}
"""Values of [model] that Meta's code requires."""


def write_meta(
    trained: TrainedModel, directory: Path, dtype: torch.dtype | None, parts: int
) -> None:
    """Write every file of a Meta checkpoint into `directory`.

    dtype: dtype of the written weights; None keeps the checkpoint's.
    parts: number of model-parallel ranks, each with a consolidated.NN.pth.
    Raises ConversionError for a [model] that Meta's code cannot run or split into `parts`.
    """
    model, tokenizer = trained.spec.model, trained.opened.tokenizer
    _require_llama(model, parts)
    source_tokenizer = trained.opened.tokenizer_file if trained.opened.imported else None
    tiktoken = tokenizer is not None and not is_sentencepiece(tokenizer)
    tensors = {
        name: reorder_rows(name, tensor, model, "interleaved")
        for name, tensor in trained.cast(dtype).items()
    }
    if model.tied_embeddings:  # Meta's code has no ties: it would start from a random output
        tensors["output"] = tensors[TABLE]
    for rank in range(parts):
        stored = {
            meta_name(name): _part(tensor, _dim(name, tiktoken), rank, parts)
            for name, tensor in tensors.items()
        }
        write_pth(directory / f"consolidated.{rank:02d}.pth", stored)
    if tokenizer is not None and is_sentencepiece(tokenizer):
        bos, sentencepiece = trained.opened.bos, tokenizer.model
        if bos not in (None, tokenizer.bos):  # Meta's code puts the file's BOS before every text
            sentencepiece = with_bos(sentencepiece, tokenizer.piece(bos))
        (directory / "tokenizer.model").write_bytes(sentencepiece)
    elif source_tokenizer is not None and source_tokenizer.name == "tokenizer.model":  # Llama 3's
        (directory / "tokenizer.model").write_bytes(source_tokenizer.read_bytes())
    elif tokenizer is not None:
        (directory / "tokenizer.json").write_bytes(tokenizer.model)
    text = json.dumps(_params(model), indent=2) + "\n"
    (directory / "params.json").write_text(text, encoding="utf-8")


def _require_llama(model: Model, parts: int) -> None:
    for key, required in META.items():
        if (actual := getattr(model, key)) != required:
            raise ConversionError(
                f"Meta's code does not support model.{key} = {actual!r}: use --format hf"
            )
    if model.head_dim * model.n_heads != model.dim:
        raise ConversionError(
            f"Meta's code needs head_dim = dim / n_heads, but model.head_dim = {model.head_dim}: "
            "use --format hf"
        )
    if model.rope_scaling is not None and model.rope_scaling.kind != "llama3":
        raise ConversionError("Meta's code does not support linear RoPE scaling: use --format hf")
    for key in ("n_heads", "n_kv_heads", "ffn_dim", "vocab_size", "dim"):
        if getattr(model, key) % parts:
            raise ConversionError(
                f"--parts {parts} does not divide model.{key} = {getattr(model, key)}"
            )


def _dim(name: str, tiktoken: bool) -> int | None:
    if name == TABLE:
        return FIRST if tiktoken else SECOND
    return SPLIT.get(name.split(".", 2)[2] if name.startswith("layers.") else name)


def _part(tensor: LazyTensor, dim: int | None, rank: int, parts: int) -> LazyTensor:
    """Return a rank's part of a tensor: a slice along `dim`, or a copy if it is None."""
    if parts == 1 or dim is None:
        return tensor
    shape = [*tensor.shape]
    shape[dim] //= parts

    def read() -> torch.Tensor:
        return tensor.read().narrow(dim, rank * shape[dim], shape[dim]).contiguous()

    return LazyTensor(tensor.dtype, tuple(shape), tensor.where, read)


def _params(model: Model) -> dict[str, Any]:
    """Return the contents of params.json, in keys that the version of Meta's code accepts."""
    params: dict[str, Any] = {
        "dim": model.dim,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "vocab_size": model.vocab_size,
        "norm_eps": model.norm_eps,
        **_ffn_params(model),
    }
    if model.n_kv_heads != model.n_heads:
        params["n_kv_heads"] = model.n_kv_heads
    if model.rope_theta != 10_000.0:
        params["rope_theta"] = model.rope_theta
    if (scaling := model.rope_scaling) is not None and scaling.kind == "llama3":
        params["use_scaled_rope"] = True
        defaults = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        names = {"factor": "rope_scaling_factor", "original_context": "rope_original_context"}
        for key, value in (defaults | {"original_context": 8192}).items():
            if getattr(scaling, key) != value:  # the defaults are built into Meta's code
                params[names.get(key, f"rope_{key}")] = getattr(scaling, key)
    return params


def _ffn_params(model: Model) -> dict[str, Any]:
    """Return the parameters of Meta's rule (8/3 of dim, times a factor, rounded up) for ffn_dim."""
    rows = int(2 * (4 * model.dim) / 3)
    if _round_up(rows, model.multiple_of) == model.ffn_dim:
        return {"multiple_of": model.multiple_of}
    power = model.ffn_dim & -model.ffn_dim  # the largest power of two that divides it
    multiple = min(power, 4096)
    for digits in range(1, 12):
        factor = round(model.ffn_dim / rows, digits)
        if _round_up(int(factor * rows), multiple) == model.ffn_dim:
            return {"multiple_of": multiple, "ffn_dim_multiplier": factor}
    return {"multiple_of": model.ffn_dim}


def _round_up(rows: int, multiple: int) -> int:
    return multiple * -(-rows // multiple)
