"""Models of transformers come in and leave without a bit changed, and compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from llamac.runtime.checkpoint.model_directory import open_model
from llamac.spec import load_spec
from tests.convert.conftest import (
    GROUPED,
    LLAMA3,
    divergence,
    exports,
    hf_log_probabilities,
    imports,
    llamac,
    log_probabilities,
    make_run,
    require_same_greedy_tokens,
    tokens_of,
)

LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
BIASED = {"attention_bias": True, "mlp_bias": True}
FAMILIES = [
    ("llama", {}),
    ("llama", GROUPED),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": LLAMA3, **GROUPED}),
    ("llama", {"rope_parameters": LINEAR, "head_dim": 12}),
    ("llama", {**BIASED, **GROUPED}),
    ("llama", {"attention_bias": True, **GROUPED}),
    ("llama", {"mlp_bias": True}),
    ("qwen2", GROUPED),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 16, **GROUPED}),
    ("qwen3", {"attention_bias": True, **GROUPED}),
    ("mistral", {"sliding_window": None, **GROUPED}),
    ("mistral", {"sliding_window": 16, **GROUPED}),
]
IDS = [f"{family}-{'-'.join(changes) or 'plain'}" for family, changes in FAMILIES]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=IDS)
def test_an_import_computes_what_transformers_does(family, changes, hf) -> None:
    directory, model = hf(family, **changes)
    tokens = tokens_of(331)
    imported = imports(directory)
    found = log_probabilities(imported, tokens)
    assert divergence(hf_log_probabilities(model, tokens), found) <= 1e-12
    require_same_greedy_tokens(model, imported, tokens[:, :32])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_there_and_back_gives_the_same_file(family, changes, dtype, hf) -> None:
    directory, _ = hf(family, dtype=dtype, **changes)
    back = exports(imports(directory))
    name = "model.safetensors"
    assert (back / name).read_bytes() == (directory / name).read_bytes()
    before, after = (json.loads((d / "config.json").read_text()) for d in (directory, back))
    # Without its window it is a Llama, and any class would do.
    if family == "mistral" and not changes["sliding_window"]:
        return
    for key in ("model_type", "architectures", "rope_parameters", "tie_word_embeddings", "dtype"):
        assert after[key] == before[key]


RUNS = [
    (),
    ("model.n_kv_heads=2",),
    ("model.rope_layout=half_split", "model.n_kv_heads=1"),
    ("model.tied_embeddings=true",),
    ("model.bias=true", "model.n_kv_heads=2"),
    ("model.head_dim=12",),
    ('model.bias="qkv"', "model.n_kv_heads=2"),
    ('model.bias="attention"', "model.n_kv_heads=2"),
    ("model.qk_norm=true", "model.n_kv_heads=2"),
    ('model.rope_scaling={kind="llama3", factor=8.0, original_context=32}',),
    ('model.rope_scaling={kind="linear", factor=4.0}', "model.rope_theta=500.0"),
]
LOAD = """
import pathlib, sys, torch, warnings
warnings.simplefilter("error")
import transformers
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info.values()), info
card = pathlib.Path(sys.argv[1], "README.md").read_text()
kind = card.split("tokenizer = ")[1].split(".")[0]
tokenizer = getattr(transformers, kind).from_pretrained(sys.argv[1])
ids = tokenizer("it's a few words")["input_ids"]
assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id, ids
assert tokenizer.decode(ids, skip_special_tokens=True) == "it's a few words"
torch.save(model, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS, ids=lambda o: ",".join(o) or "llama1")
def test_transformers_loads_an_export_without_a_word(overrides, tmp_path, tokenizer) -> None:
    spec = make_run(tmp_path / "run", tokenizer, *overrides)
    directory = exports(tmp_path / "run")
    command = [sys.executable, "-c", LOAD, str(directory), str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.split("\n") if line and "Loading weights" not in line]
    assert not said
    model = torch.load(tmp_path / "model.pt", weights_only=False)
    tokens = tokens_of(spec.model.vocab_size)
    found = log_probabilities(tmp_path / "run", tokens)
    assert divergence(hf_log_probabilities(model, tokens), found) <= 1e-12
    require_same_greedy_tokens(model, tmp_path / "run", tokens[:, :32])


def test_a_model_card_says_what_the_run_was(tmp_path: Path, tokenizer) -> None:
    counts = {"python-docs": 1_234_567, "python-source": 890}
    sources = [{"name": name, "train": {"tokens": count}} for name, count in counts.items()]
    spec = make_run(tmp_path / "run", tokenizer, sources=sources)
    rows = [{"step": 5, "validation_loss": 3.5}, {"step": 7, "loss": 3.25}, {"step": 8, "loss": 9}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run/metrics.jsonl").write_text(text)
    card = (exports(tmp_path / "run") / "README.md").read_text()
    for said in (
        "step 7",
        "training loss: 3.2500",
        "held-out loss: 3.5",
        "| python-docs | 60.0% | 1,234,567 |",
        "| python-source | 40.0% | 890 |",
    ):
        assert said in card
    assert f"hardware: {spec.parallel.ranks} × " in card
    assert tomllib.loads(card.split("```toml\n")[1].split("```")[0])["model"]["dim"] == 64


def test_special_ids_leave_as_they_came_without_a_tokenizer(hf) -> None:
    directory, _ = hf(bos_token_id=7, eos_token_id=[9, 11])
    back = exports(imports(directory))
    for name in ("config.json", "generation_config.json"):
        held = json.loads((back / name).read_text())
        assert (held["bos_token_id"], held["eos_token_id"]) == (7, [9, 11])


def test_an_eos_id_that_is_text_in_the_tokenizer_ends_generation_alone(hf) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    directory, _ = hf(eos_token_id=[2, 300, 256])
    tokenizer.save(str(directory / "tokenizer.json"))
    imported = imports(directory)
    assert load_spec(f"{imported}.toml").tokenizer.eos == 256
    assert open_model(imported, "newest", print).end == (2, 300, 256)
    held = json.loads((exports(imported) / "generation_config.json").read_text())
    assert held["eos_token_id"] == [2, 300, 256]


def test_shards_are_listed_exactly(tmp_path, tokenizer, monkeypatch) -> None:
    from transformers import AutoModelForCausalLM

    from llamac.convert.hf import hf_export
    from llamac.convert.hf.safetensors_file import read_safetensors

    monkeypatch.setattr(hf_export.write_hf, "__defaults__", (100_000,))
    make_run(tmp_path / "run", tokenizer, "model.tied_embeddings=true")
    directory = exports(tmp_path / "run", "--dtype", "bfloat16")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    held = {
        name: path.name
        for path in directory.glob("*.safetensors")
        for name in read_safetensors(path)
    }
    assert held == index["weight_map"]
    assert not any("lm_head" in name for name in held)
    assert len(set(held.values())) > 1
    assert max(path.stat().st_size for path in directory.glob("*.safetensors")) < 110_000
    assert AutoModelForCausalLM.from_pretrained(directory).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model.norm_position=post",), 'no class for model.norm_position = "post"'),
        (("model.activation=gelu",), 'no class for model.activation = "gelu"'),
    ],
)
def test_what_transformers_has_no_class_for_is_refused(
    overrides, says, tmp_path, tokenizer, capsys
) -> None:
    make_run(tmp_path / "run", tokenizer, *overrides)
    assert llamac("export", tmp_path / "run", "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert says.replace('"', "'") in said
    assert "generate.py" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_spec_is_as_a_person_writes_it(hf) -> None:
    directory, _ = hf("llama", **GROUPED)
    text = imports(directory).with_suffix(".toml").read_text()
    model = text.split("[model]\n")[1].split("\n\n")[0]
    keys = [line.split(" = ")[0] for line in model.splitlines()]
    given = ["dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "ffn_dim", "rope_layout"]
    assert keys == given
    assert 'from = "imported"' in text


def test_an_import_without_a_tokenizer_says_so_and_passes_check(hf, capsys) -> None:
    directory, _ = hf()
    imported = imports(directory)
    assert f"no tokenizer: put its tokenizer.json or tokenizer.model into {imported}/" in (
        capsys.readouterr().err
    )
    assert llamac("check", f"{imported}.toml") == 0
    text = Path(f"{imported}.toml").read_text()
    assert '\n# path = "imported/tokenizer.json"  # the source has none' in text


def test_an_import_takes_the_place_of_another_only_when_told(hf, capsys) -> None:
    directory, _ = hf()
    first = imports(directory)
    assert llamac("import", directory, "-o", first.with_suffix(".toml")) == 2
    assert "--overwrite" in capsys.readouterr().err
    imports(directory, "imported", "--overwrite")
    assert sorted(path.name for path in first.parent.iterdir()) == [
        "hf",
        "imported",
        "imported.toml",
    ]


def test_an_export_takes_the_place_of_another_only_when_told(tmp_path: Path, tokenizer) -> None:
    make_run(tmp_path / "run", tokenizer)
    output = exports(tmp_path / "run")
    assert llamac("export", tmp_path / "run", "-o", output) == 2
    assert llamac("export", tmp_path / "run", "-o", output, "--overwrite") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/text").touch()
    assert llamac("export", tmp_path / "run", "-o", tmp_path / "mine", "--overwrite") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "mine", "run"]
