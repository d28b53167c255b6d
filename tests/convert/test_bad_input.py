"""Damaged, lying and hostile models: one error with file and tensor, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamac.convert.errors import ConversionError
from llamac.convert.hf import hf_export
from llamac.convert.hf.config_import import model_of, read_config
from llamac.convert.typed_table import validate_table
from llamac.runtime.durable_files import NewFile
from llamac.spec.model import Model
from tests.convert.conftest import SHAPE, exports, imports, llamac, make_run

QUERY = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PTH = "consolidated.00.pth"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> dict[str, Path]:
    """The same model in every form."""
    root = tmp_path_factory.mktemp("bases")
    make_run(root / "run", tokenizer)
    found = {f: exports(root / "run", "--format", f, name=f) for f in ("hf", "meta", "gguf")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_export.write_hf, "__defaults__", (100_000,))
        found["sharded"] = exports(root / "run", name="sharded")
    return found


@pytest.fixture
def refusal(bases, tmp_path: Path, capsys) -> Callable[..., str]:
    """`refusal("hf", change)`: what an import of the changed copy says, which leaves nothing."""

    def of(base: str, change: Change, file: str = "") -> str:
        shutil.copytree(bases[base], tmp_path / "src")
        change(tmp_path / "src")
        before = sorted(tmp_path.iterdir())
        assert llamac("import", tmp_path / "src" / file, "-o", tmp_path / "out.toml") == 2
        assert sorted(tmp_path.iterdir()) == before
        return capsys.readouterr().err

    return of


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    def of(directory: Path) -> None:
        held = load_file(directory / WEIGHTS)
        change(held)
        save_file({name: t.clone() for name, t in held.items()}, directory / WEIGHTS)

    return of


def as_bin(change: Callable[[dict[str, Any]], Any]) -> Change:
    def of(directory: Path) -> None:
        held = load_file(directory / WEIGHTS)
        (directory / WEIGHTS).unlink()
        torch.save(change(held) or held, directory / "pytorch_model.bin")

    return of


def written(file: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda directory: (directory / file).write_bytes(change((directory / file).read_bytes()))


def edited(file: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def of(content: bytes) -> bytes:
        table = json.loads(content)
        change(table)
        return json.dumps(table).encode()

    return written(file, of)


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    def of(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        table = json.loads(content[8 : 8 + length])
        change(table)
        text = json.dumps(table).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return written(WEIGHTS, of)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def rewritten(change: Callable[[zipfile.ZipFile, str, bytes], Any]) -> Change:
    def of(directory: Path) -> None:
        with zipfile.ZipFile(directory / PTH) as archive:
            held = [(name, archive.read(name)) for name in archive.namelist()]
        (directory / PTH).unlink()
        with zipfile.ZipFile(directory / PTH, "w") as archive:
            for name, content in held:
                change(archive, name, content)

    return of


def linked_out(file: str) -> Change:
    def of(directory: Path) -> None:
        shutil.copy(directory / file, directory.parent / "elsewhere")
        (directory / file).unlink()
        (directory / file).symlink_to("../elsewhere")

    return of


class Code:
    """Pickled, this calls a function when it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


LISTED = "weight_map"
CASES: list[tuple[str, Change, tuple[str, ...]]] = [
    ("hf", tensors(lambda t: t.update({QUERY: t[QUERY][:-1]})), (QUERY, WEIGHTS, "[63, 64]")),
    ("hf", tensors(lambda t: t.pop(QUERY)), (QUERY, "lacks")),
    ("hf", tensors(lambda t: t.update({"model.x": t[QUERY]})), ("model.x", WEIGHTS)),
    ("hf", tensors(lambda t: t.update({QUERY: t[QUERY].int()})), (QUERY, WEIGHTS, "int32")),
    ("hf", tensors(lambda t: t.update({"\x1b[2J": t.pop(QUERY)})), (QUERY, "lacks")),
    ("hf", written(WEIGHTS, lambda b: b[:-9]), (WEIGHTS, "truncated")),
    ("hf", written(WEIGHTS, lambda b: b + b"x"), (WEIGHTS, "more at its end")),
    ("hf", written(WEIGHTS, lambda b: b[:60]), (WEIGHTS, "header")),
    ("hf", written(WEIGHTS, lambda b: struct.pack("<Q", 2**63) + b[8:]), (WEIGHTS, "header")),
    ("hf", header(lambda h: h[QUERY].update(data_offsets=[0, 16384])), (WEIGHTS, "tensor ends")),
    ("hf", header(lambda h: h[QUERY].update(data_offsets=[-8, 8])), (QUERY, WEIGHTS)),
    ("hf", header(lambda h: h[QUERY].update(shape=[2**40, 2**40])), (QUERY, WEIGHTS)),
    ("hf", header(lambda h: h[QUERY].update(dtype=["F32"])), (QUERY, WEIGHTS)),
    ("hf", header(lambda h: h.update({QUERY: None})), (QUERY, WEIGHTS)),
    ("hf", linked_out(WEIGHTS), (WEIGHTS, "leads out")),
    ("hf", linked_out("tokenizer.json"), ("tokenizer.json", "leads out")),
    ("hf", linked_out("generation_config.json"), ("generation_config.json", "leads out")),
    ("hf", lambda d: (d / WEIGHTS).unlink(), (WEIGHTS, "has neither")),
    ("hf", edited(CONFIG, lambda c: c.update(num_hidden_layers=3)), ("model.layers.2", "lacks")),
    ("hf", edited(CONFIG, lambda c: c.update(num_hidden_layers=1)), ("model.layers.1", WEIGHTS)),
    ("hf", edited(CONFIG, lambda c: c.update(vocab_size=330)), ("[331, 64]", WEIGHTS)),
    ("hf", edited(CONFIG, lambda c: c.update(tie_word_embeddings=True)), ("lm_head", "tie_word")),
    ("hf", edited(CONFIG, lambda c: c.update(bos_token_id=4000)), ("4,000", "331")),
    ("hf", written(CONFIG, lambda b: b"[" * 90_000), (CONFIG, "nested")),
    (
        "hf",
        written(CONFIG, lambda b: b'{"model_type": 1, "model_type": 2}'),
        (CONFIG, "twice"),
    ),
    ("hf", written("tokenizer.json", lambda b: b"{}"), ("tokenizer.json", "no `model`")),
    (
        "hf",
        edited("tokenizer.json", lambda t: t["post_processor"].update(special_tokens={})),
        ("tokenizer.json", "post_processor"),
    ),
    (
        "hf",
        edited("tokenizer_config.json", lambda t: t.update(chat_template=5)),
        ("tokenizer_config.json", "chat_template"),
    ),
    (
        "hf",
        edited("generation_config.json", lambda t: t.update(temperature="hot")),
        ("generation_config.json", "temperature"),
    ),
    ("sharded", edited(INDEX, lambda i: i[LISTED].update({QUERY: "x.safetensors"})), ("x.safe",)),
    ("sharded", edited(INDEX, lambda i: i[LISTED].update({QUERY: "../src.bin"})), ("leads out",)),
    ("sharded", edited(INDEX, lambda i: i[LISTED].update({QUERY: "a\0b"})), ("has no file",)),
    ("sharded", edited(INDEX, lambda i: i[LISTED].pop(QUERY)), (QUERY, "does not list")),
    (
        "sharded",
        edited(INDEX, lambda i: i[LISTED].update(more=i[LISTED][QUERY])),
        ("more", "contain"),
    ),
    (
        "sharded",
        edited(INDEX, lambda i: i[LISTED].update({"": i[LISTED][QUERY]})),
        ("not contain",),
    ),
    ("sharded", edited(INDEX, lambda i: i.update(weight_map=[])), (INDEX, "weight_map")),
    ("sharded", lambda d: next(d.glob("model-00002*")).unlink(), ("model-00002",)),
    ("hf", as_bin(lambda t: t.update(code=Code())), ("pytorch_model.bin", "posix.system")),
    ("hf", as_bin(lambda t: t.update({QUERY: t[QUERY].to_sparse()})), (QUERY, "sparse")),
    ("hf", as_bin(lambda t: {"model": t}), ("pytorch_model.bin", "by name")),
    ("meta", written(PTH, flipped), ("layers.", PTH, "CRC")),
    ("meta", written(PTH, lambda b: b[: len(b) // 2]), (PTH, "truncated")),
    ("meta", rewritten(lambda z, n, b: z.writestr(n, b, zipfile.ZIP_DEFLATED)), (PTH, "compress")),
    (
        "meta",
        rewritten(lambda z, n, b: z.writestr(n, b[:96] if n.endswith("data/3") else b)),
        ("layers.", PTH),
    ),
    ("meta", lambda d: shutil.copy(d / PTH, d / "consolidated.02.pth"), ("lacks one",)),
    ("meta", edited("params.json", lambda p: p.update(vocab_size=332)), ("params.json", "331")),
    ("meta", edited("params.json", lambda p: p.update(multiple_of=1000)), ("params.json", "96")),
    ("meta", edited("params.json", lambda p: p.update(norm_eps="x")), ("params.json", "norm_eps")),
    ("meta", edited("params.json", lambda p: p.update(moe={})), ("params.json", "moe")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("base", "change", "said"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_one_error_names_file_and_tensor(base, change, said, refusal) -> None:
    error = refusal(base, change)
    assert all(one in error for one in said), error
    assert len([line for line in error.splitlines() if line.startswith("llamac import:")]) == 1
    assert "\x1b" not in error
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            CONFIG,
            {"num_key_value_heads": 3},
            f"{CONFIG}: n_heads = 8 is not a multiple of n_kv_heads = 3\n",
        ),
        ("generation_config.json", {"eos_token_id": 4000}, "src: the end token is 4,000, but"),
    ],
)
def test_an_error_in_keys_names_the_file_they_are_in(file, change, said, refusal) -> None:
    assert said in refusal("hf", edited(file, lambda table: table.update(change)))


def moved(content: bytes) -> bytes:
    """Place a tensor of a GGUF file where the first one is."""
    name = b"blk.1.attn_q.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8 + 4  # behind dimensions, shape and type
    return content[:at] + bytes(8) + content[at + 8 :]


GGUF_CASES: list[tuple[Callable[[bytes], bytes], tuple[str, ...]]] = [
    (moved, ("begins within",)),
    (lambda b: b.replace(b".bos_token_id", b".eos_token_id", 1), ("eos_token_id", "twice")),
    (lambda b: b.replace(b"blk.1.attn_q.", b"blk.0.attn_q.", 1), ("two", "blk.0.attn_q.weight")),
    (lambda b: b[:-9], ("truncated",)),
]


@pytest.mark.parametrize(("change", "said"), GGUF_CASES, ids=[str(n) for n in range(4)])
def test_one_error_names_what_a_gguf_contradicts(change, said, refusal) -> None:
    error = refusal("gguf", written("model.gguf", change), "model.gguf")
    assert all(one in error for one in (*said, "model.gguf")), error


LYING = [
    {"hidden_size": "64"},
    {"hidden_size": 64.0},
    {"hidden_size": True},
    {"hidden_size": None},
    {"num_hidden_layers": 10**9},
    {"num_attention_heads": 0},
    {"num_attention_heads": 7},
    {"num_key_value_heads": 3},
    {"num_key_value_heads": [8]},
    {"vocab_size": 10**12},
    {"rms_norm_eps": float("nan")},
    {"rms_norm_eps": [1]},
    {"head_dim": 7},
    {"hidden_act": ["silu"]},
    {"max_position_embeddings": 10**30},
    {"eos_token_id": -1},
    {"rope_parameters": "x"},
    {"rope_parameters": {"rope_type": "linear"}},
    {"rope_parameters": {"rope_type": "llama3", "factor": 8}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 8}},
    {"rope_parameters": {"rope_theta": float("inf")}},
    {"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}},
    {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
    {"partial_rotary_factor": 0.5},
    {"quantization_config": {"bits": 4}},
    {"model_type": "mistral", "attention_bias": True},
    {"model_type": "qwen3", "mlp_bias": True},
    {"model_type": ["llama"]},
    {"model_type": "mixtral", "num_local_experts": 8},
    {"model_type": "mistral", "sliding_window": 0},
    {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": "x"},
    {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 8, "layer_types": [[]]},
    {
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
]


@pytest.mark.parametrize("changes", LYING, ids=str)
def test_a_config_that_no_model_has_is_refused(changes) -> None:
    def read() -> Model:
        table, where = {"model_type": "llama", **SHAPE, **changes}, "config.json"
        return validate_table(
            Model, model_of(table["model_type"], read_config(table, where), where), where
        )

    with pytest.raises(ConversionError, match=r"config\.json"):
        read()


@pytest.mark.slow
@pytest.mark.parametrize("base", ["hf", "meta", "gguf"])
def test_no_flipped_byte_of_a_header_is_a_crash(base, bases, tmp_path: Path, capsys) -> None:
    """Every import of a damaged copy fails with a message or succeeds: no traceback, no rest."""
    file = {"hf": WEIGHTS, "meta": PTH, "gguf": "model.gguf"}[base]
    source = tmp_path / "src"
    shutil.copytree(bases[base], source)
    content = (source / file).read_bytes()
    random = torch.Generator().manual_seed(0)
    for _ in range(25):
        place, bit = (int(torch.randint(n, (), generator=random)) for n in (2000, 8))
        place = len(content) - place - 1 if base == "meta" and place % 2 else place
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        (source / file).write_bytes(damaged)
        path = source / file if base == "gguf" else source
        assert llamac("import", path, "-o", tmp_path / "out.toml", "--overwrite") in (0, 2)
    assert {path.name for path in tmp_path.iterdir()} <= {"src", "out", "out.toml"}


def test_a_spec_that_cannot_be_written_leaves_no_directory(bases, tmp_path, monkeypatch) -> None:
    shutil.copytree(bases["hf"], tmp_path / "hf")
    before = imports(tmp_path / "hf")
    kept = (before / "import.json").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llamac.cli.import_.write_output", full)
    for name, options in (("other", ()), ("imported", ("--overwrite",))):
        assert llamac("import", tmp_path / "hf", "-o", tmp_path / f"{name}.toml", *options) == 1
    assert (before / "import.json").read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "imported", "imported.toml"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("format", ["hf", "meta", "gguf"])
def test_a_stopped_export_leaves_nothing(error, format, bases, tmp_path, monkeypatch) -> None:
    shutil.copytree(bases["hf"].parent / "run", tmp_path / "run")

    def stopped(*_: Any) -> None:
        raise error

    monkeypatch.setattr("llamac.convert.weights._read_chunk", stopped)
    code = llamac("export", tmp_path / "run", "-o", tmp_path / "out", "--format", format)
    assert code == (130 if error is KeyboardInterrupt else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_stopped_import_leaves_nothing(error, bases, tmp_path, monkeypatch, capsys) -> None:
    write = NewFile.write

    def stopped(file: NewFile, data: Any) -> int:
        if file.size > 2000:
            raise error
        return write(file, data)

    monkeypatch.setattr(NewFile, "write", stopped)
    code = llamac("import", bases["hf"], "-o", tmp_path / "out.toml")
    said = {130: "interrupted", 1: f"{tmp_path}/out was not written: No space left on device; make"}
    assert said[code] in capsys.readouterr().err
    assert code == (130 if error is KeyboardInterrupt else 1)
    assert not [*tmp_path.iterdir()]


def test_sigterm_is_an_interrupt_that_leaves_nothing(bases, tmp_path, monkeypatch) -> None:
    def terminated(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(NewFile, "write", terminated)
    assert llamac("import", bases["hf"], "-o", tmp_path / "out.toml") == 130
    monkeypatch.setattr("llamac.convert.weights._read_chunk", terminated)
    assert llamac("export", bases["hf"].parent / "run", "-o", tmp_path / "out") == 130
    assert not [*tmp_path.iterdir()]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_process_killed_between_two_renames_loses_nothing(bases, tmp_path: Path) -> None:
    shutil.copytree(bases["hf"], tmp_path / "hf")
    first = imports(tmp_path / "hf")
    first.rename(tmp_path / ".imported.replaced")
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    spec = tmp_path / "imported.toml"
    assert llamac("import", tmp_path / "hf", "-o", spec, "--overwrite") == 2
    assert (first / "import.json").is_file()
