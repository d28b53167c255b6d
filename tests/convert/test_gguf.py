"""GGUF: there and back, dequantised as gguf does it, and no count believed that cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from llamac.convert.errors import ConversionError
from llamac.convert.gguf.gguf_file import read_gguf
from llamac.convert.names import gguf_name, to_interleaved
from tests.convert.conftest import (
    divergence,
    exports,
    imports,
    llamac,
    log_probabilities,
    make_run,
    tokens_of,
    weights_of,
)

LLAMA3 = 'model.rope_scaling={kind="llama3", factor=8.0, original_context=32}'
LINEAR = 'model.rope_scaling={kind="linear", factor=4.0}'
RUNS = [
    (),
    ("model.n_kv_heads=2", "model.rope_layout=half_split"),
    ("model.tied_embeddings=true", "model.norm_eps=1e-6"),
    ("model.bias=true", "model.n_kv_heads=2", "model.rope_layout=half_split"),
    ("model.bias=true", "model.n_kv_heads=2"),
    ('model.bias="qkv"', "model.n_kv_heads=2"),
    ('model.bias="attention"', "model.n_kv_heads=2"),
    ("model.qk_norm=true", "model.n_kv_heads=2", "model.rope_layout=half_split"),
    ("model.qk_norm=true", "model.head_dim=12"),
    (LLAMA3,),
    (LINEAR, "model.rope_theta=500.0"),
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS, ids=lambda o: ",".join(o) or "llama1")
def test_there_and_back_computes_the_same(overrides, tmp_path: Path, tokenizer) -> None:
    spec = make_run(tmp_path / "run", tokenizer, *overrides)
    back = imports(exports(tmp_path / "run", "--format", "gguf") / "model.gguf")
    tokens = tokens_of(spec.model.vocab_size)
    found, wanted = (log_probabilities(d, tokens) for d in (back, tmp_path / "run"))
    assert divergence(wanted, found) <= 1e-14
    text = "it's 12 words,  spaced"
    ids = tokenizers.Tokenizer.from_file(str(back / "tokenizer.json")).encode(text).ids
    assert ids == [tokenizer.eos, *tokenizer.encode(text)]


def test_llama_cpp_gets_interleaved_rows(tmp_path: Path, tokenizer) -> None:
    make_run(tmp_path / "run", tokenizer, "model.rope_layout=half_split", "model.bias=true")
    held = read_gguf(exports(tmp_path / "run", "--format", "gguf") / "model.gguf").tensors
    for name, own in weights_of(tmp_path / "run").items():
        rotated = name.removesuffix("_bias").endswith(("wq", "wk"))
        wanted = to_interleaved(own, 8) if rotated else own
        assert torch.equal(held[gguf_name(name)].read(), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0"])
def test_each_type_reads_as_gguf_reads_it(dtype, tmp_path: Path, tokenizer) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    make_run(tmp_path / "run", tokenizer)
    path = exports(tmp_path / "run", "--format", "gguf", "--dtype", dtype) / "model.gguf"
    held = read_gguf(path).tensors
    reader = GGUFReader(path)
    assert {one.name for one in reader.tensors} == held.keys()
    for one in reader.tensors:
        wanted = torch.from_numpy(np.array(dequantize(one.data, one.tensor_type)))
        assert torch.equal(held[one.name].read().float(), wanted.reshape(held[one.name].shape))


def counted(tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def text(value: str, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if size is None else size) + value.encode()


def array(kind: int, size: int) -> bytes:
    return text("key") + struct.pack("<IIQ", 9, kind, size)


def place(*shape: int, kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text("tensor") + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(40),
        counted(tensors=2**60),
        counted(keys=2**63),
        counted(keys=1, rest=text("key", 2**62)),
        counted(keys=1, rest=array(6, 2**61)),
        counted(keys=1, rest=array(8, 2**40)),
        counted(keys=1, rest=array(9, 2**40)),
        counted(keys=1, rest=text("key") + struct.pack("<I", 99)),
        counted(tensors=1, rest=place(2**39, 2**39)),
        counted(tensors=1, rest=place(0)),
        counted(tensors=1, rest=place(8, kind=77)),
        counted(tensors=1, rest=place(33, kind=8)),
        counted(tensors=1, rest=place(8, offset=2**63)),
        counted(tensors=1, rest=text("tensor") + struct.pack("<I", 2**31)),
    ],
)
def test_absurd_counts_are_refused_without_memory(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"bad\.gguf"):
        read_gguf(path)


def test_a_truncated_file_names_the_tensor(tmp_path: Path, tokenizer, capsys) -> None:
    make_run(tmp_path / "run", tokenizer)
    path = exports(tmp_path / "run", "--format", "gguf") / "model.gguf"
    path.write_bytes(path.read_bytes()[:-9000])
    assert llamac("import", path, "-o", tmp_path / "bad.toml") == 2
    assert "output.weight in" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
