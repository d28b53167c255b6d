"""Import Meta's checkpoints: params.json and one consolidated.NN.pth a model-parallel rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.meta.pth import read_pth
from llamac.convert.model_source import ForeignModel, Shapes
from llamac.convert.names import meta_name
from llamac.convert.tensors import Stored, require_tensors
from llamac.runtime.tokenizers.tiktoken_file import is_tiktoken

FIRST, SECOND = 0, 1
SPLIT = {  # the dim that model-parallel ranks share (llama/model.py); norms are whole on each
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
"""Split along SECOND up to Llama 2, along FIRST since Llama 3 (ParallelEmbedding, vocabulary)."""

KNOWN = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "norm_eps"}
KNOWN |= {"ffn_dim_multiplier", "rope_theta", "use_scaled_rope", "max_seq_len", "max_batch_size"}
KNOWN |= {"rope_scaling_factor", "rope_low_freq_factor", "rope_high_freq_factor"}
KNOWN |= {"rope_original_context"}
BOS, EOS = 1, 2  # of Meta's SentencePiece model
LLAMA3 = (128_000, (128_001, 128_008, 128_009))  # BOS; end of text, of a message, of a turn


def open_meta(directory: Path) -> ForeignModel:
    """Describe the model in a directory of Meta's. Raises ConversionError."""
    where = untrusted_files.inside(directory, "params.json")
    params = untrusted_files.read_json(where)
    if unknown := sorted(params.keys() - KNOWN):
        raise ConversionError(f"{where} has {', '.join(unknown)}, which is not known here")
    paths = [
        untrusted_files.inside(directory, p.name)
        for p in sorted(directory.glob("consolidated.*.pth"))
    ]
    if not paths:
        raise ConversionError(f"{directory} has no consolidated.00.pth")
    if [path.name for path in paths] != [f"consolidated.{n:02d}.pth" for n in range(len(paths))]:
        raise ConversionError(f"{directory} lacks one of its consolidated.NN.pth files")
    parts = [_named(path) for path in paths]
    tokenizer = {}
    if (directory / "tokenizer.model").exists():
        tokenizer["tokenizer.model"] = untrusted_files.inside(
            directory, "tokenizer.model"
        ).read_bytes()
    tiktoken = is_tiktoken(tokenizer.get("tokenizer.model", b""))
    begin, end = (LLAMA3[0], LLAMA3[1]) if tiktoken else (BOS, (EOS,))
    return ForeignModel(
        family="llama",
        title=directory.resolve().name,
        model=_model_of(params, parts, where),
        tensors=lambda shapes: _tensors(parts, shapes, directory),
        files=(where, *paths),
        context=params.get("max_seq_len") or _context(params),
        tokenizer=tokenizer,
        begin=(begin,) if tokenizer else (),
        end=end if tokenizer else (),
    )


def _named(path: Path) -> dict[str, Stored]:
    """Return a file's tensors; `rope.freqs`, which older files hold, is computed anew."""
    return {name: tensor for name, tensor in read_pth(path).items() if name != "rope.freqs"}


def _context(params: Mapping[str, Any]) -> int:
    """Return the context of the published models with such settings, which no file says."""
    if params.get("use_scaled_rope"):
        return 131_072
    return 8192 if params.get("rope_theta") == 500_000.0 else 2048


def _model_of(
    params: Mapping[str, Any], parts: Sequence[Mapping[str, Stored]], where: Path
) -> dict[str, Any]:
    if missing := [key for key in ("dim", "n_layers", "n_heads") if key not in params]:
        raise ConversionError(f"{where} lacks {', '.join(missing)}")
    first = parts[0]
    dim, heads = params["dim"], params["n_heads"]
    whole = {name: first.get(meta_name(name)) for name in (TABLE, "layers.0.feed_forward.w1")}
    for name, tensor in whole.items():
        if tensor is None or len(tensor.shape) != 2:
            raise ConversionError(f"consolidated.00.pth beside {where} lacks {meta_name(name)}")
    table, w1 = whole[TABLE], whole["layers.0.feed_forward.w1"]
    assert table is not None
    assert w1 is not None
    by_rows = table.shape[1] == dim
    model: dict[str, Any] = {
        "dim": dim,
        "n_layers": params["n_layers"],
        "n_heads": heads,
        "n_kv_heads": params.get("n_kv_heads") or heads,
        "vocab_size": table.shape[0] * (len(parts) if by_rows else 1),
        "ffn_dim": w1.shape[0] * len(parts),
        "norm_eps": float(params.get("norm_eps", 1e-5)),
        "rope_theta": float(params.get("rope_theta", 10_000.0)),
        "tied_embeddings": _is_tied(parts),
    }
    if params.get("use_scaled_rope"):
        model["rope_scaling"] = {
            "kind": "llama3",
            "factor": float(params.get("rope_scaling_factor") or 8.0),
            "low_freq_factor": float(params.get("rope_low_freq_factor") or 1.0),
            "high_freq_factor": float(params.get("rope_high_freq_factor") or 4.0),
            "original_context": params.get("rope_original_context") or 8192,
        }
    return model


def _is_tied(parts: Sequence[Mapping[str, Stored]]) -> bool:
    """Return whether the output projection is the embedding: Meta's files hold both."""
    pairs = [(part.get(meta_name(TABLE)), part.get("output.weight")) for part in parts]
    if all(output is None for _, output in pairs):
        return True
    return len(parts) == 1 and all(
        table is not None and output is not None and table.equals(output) for table, output in pairs
    )


def _tensors(
    parts: Sequence[Mapping[str, Stored]], shapes: Shapes, directory: Path
) -> dict[str, Stored]:
    """Join the ranks' parts of each tensor; where ranks hold copies, the first one's is taken."""
    dropped = {"output.weight"} if "output" not in shapes else set()
    joined: dict[str, Stored] = {}
    for name in parts[0]:
        held = [part[name] for part in parts if name in part]
        if len(held) < len(parts):
            raise ConversionError(f"{held[0].where} is not in every consolidated.NN.pth beside it")
        if len({(tensor.shape, tensor.dtype) for tensor in held}) > 1:
            raise ConversionError(f"{held[0].where} has other shapes in the files beside it")
        if name not in dropped:
            canonical = name.removesuffix(".weight")
            joined[name] = _joined(held, _dim(canonical, held[0], shapes))
    for part in parts[1:]:
        if extra := sorted(part.keys() - parts[0].keys()):
            raise ConversionError(f"{part[extra[0]].where} is not in consolidated.00.pth")
    require_tensors(joined, {meta_name(n): shape for n, shape in shapes.items()}, str(directory))
    return {name: joined[meta_name(name)] for name in shapes}


def _dim(canonical: str, part: Stored, shapes: Shapes) -> int | None:
    """Return the dim that ranks share of a tensor, or None for copies."""
    if canonical == TABLE:
        whole = shapes.get(TABLE, part.shape)
        return SECOND if part.shape[0] == whole[0] else FIRST
    stem = canonical.split(".", 2)[2] if canonical.startswith("layers.") else canonical
    return SPLIT.get(stem)


def _joined(parts: Sequence[Stored], dim: int | None) -> Stored:
    first = parts[0]
    if len(parts) == 1 or dim is None or len(first.shape) <= dim:
        return first
    shape = [*first.shape]
    shape[dim] *= len(parts)

    def read() -> torch.Tensor:
        return torch.cat([part.read() for part in parts], dim)

    return Stored(first.dtype, tuple(shape), first.where, read)
