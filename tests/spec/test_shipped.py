"""The specs that llamac ships: the papers' numbers, and the schema that editors read."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llamac.resources import directory, find_spec, shipped_specs
from llamac.spec import Spec, load_spec
from llamac.spec.schema import json_schema

NAMES = [
    *("125m", "13b", "1b", "33b", "65b", "7b", "dpo", "finetune-alpaca", "gpt3-block"),
    *("llama-mix-small", "llama2-13b", "llama2-70b", "llama2-7b", "lora-chat", "post-norm", "tiny"),
]

# Touvron et al. 2023 and 2023b: dim, heads, kv heads, layers, ffn, lr, tokens, context
PAPERS = {
    "7b": (4096, 32, 32, 32, 11008, 3e-4, 1.0e12, 2048),
    "13b": (5120, 40, 40, 40, 13824, 3e-4, 1.0e12, 2048),
    "33b": (6656, 52, 52, 60, 17920, 1.5e-4, 1.4e12, 2048),
    "65b": (8192, 64, 64, 80, 22016, 1.5e-4, 1.4e12, 2048),
    "llama2-7b": (4096, 32, 32, 32, 11008, 3e-4, 2.0e12, 4096),
    "llama2-13b": (5120, 40, 40, 40, 13824, 3e-4, 2.0e12, 4096),
    "llama2-70b": (8192, 64, 8, 80, 28672, 1.5e-4, 2.0e12, 4096),
}
PARAMETERS = {
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "33b": 32_528_943_616,
    "65b": 65_285_660_672,
    "llama2-70b": 68_976_648_192,
}


def test_all_are_there() -> None:
    assert list(shipped_specs()) == NAMES
    assert directory("templates").is_dir()


@pytest.mark.parametrize("name", PAPERS)
def test_they_are_the_papers(name: str) -> None:
    spec = load_spec(name)
    model, batch = spec.model, spec.batch
    assert PAPERS[name] == (
        *(model.dim, model.n_heads, model.n_kv_heads, model.n_layers, model.ffn_dim),
        *(spec.optimizer.lr, spec.schedule.tokens, batch.sequence_length),
    )
    assert (model.vocab_size, model.norm_eps, batch.tokens) == (32_000, 1e-5, 4 * 1024**2)
    assert (spec.optimizer.betas, spec.optimizer.weight_decay) == ((0.9, 0.95), 0.1)
    assert (spec.optimizer.clip_norm, spec.schedule.warmup_steps) == (1.0, 2000)
    assert (spec.schedule.kind, spec.schedule.min_lr_ratio) == ("cosine", 0.1)
    assert [source.share for source in spec.data.source] == [67.0, 15.0, 4.5, 4.5, 4.5, 2.5, 2.0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_their_shapes_come_to_the_published_parameters(name: str) -> None:
    m = load_spec(name).model
    attention = 2 * m.dim * (m.n_heads + m.n_kv_heads) * m.head_dim
    block = attention + 3 * m.dim * m.ffn_dim + 2 * m.dim
    assert m.n_layers * block + 2 * m.vocab_size * m.dim + m.dim == PARAMETERS[name]


def test_the_ablations_undo_what_they_say() -> None:
    block, base = load_spec("gpt3-block").model, load_spec("125m").model
    assert (block.norm, block.activation, block.position) == ("layernorm", "gelu", "learned")
    assert block.bias
    assert block.tied_embeddings
    assert block.ffn_dim == 4 * base.dim
    post = load_spec("post-norm").model
    assert post.norm_position == "post"
    assert post.dim == base.dim


@pytest.mark.parametrize("name", NAMES)
def test_they_are_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec(name)
    assert spec.name == name
    assert spec == load_spec(f"{name}.toml") == load_spec(f"specs/{name}.toml")
    assert spec.where("model.n_layers").startswith(spec.where("model.dim").split(":")[0])
    Path(f"{name}.toml").write_text("nothing")
    assert find_spec(f"{name}.toml") == Path(f"{name}.toml"), "a file at hand comes first"
    Path(name).mkdir()
    assert find_spec(name) == shipped_specs()[name], "a directory of that name is no spec"


@pytest.mark.parametrize("name", NAMES)
def test_their_resolved_form_is_a_spec_and_the_same(name: str, tmp_path: Path) -> None:
    text = load_spec(name).to_toml()
    (tmp_path / "spec.toml").write_text(text)
    assert load_spec(str(tmp_path / "spec.toml")).to_toml() == text


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_accepts_them_and_their_resolved_form(name: str) -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    schema.validate(tomllib.loads(shipped_specs()[name].read_text(encoding="utf-8")))
    schema.validate(tomllib.loads(load_spec(name).to_toml()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        {"modle": {}},
        {"model": {"n_head": 3}},
        {"model": {"dim": "64"}},
        {"model": {"rope_scaling": {"kind": "yarn"}}},
        {"batch": {"tokens": "4MM"}},
        {"batch": {"tokens": 0}},
        {"data": {"source": [{"name": "a"}]}},
        {"data": {"source": []}},
        {"optimizer": {"betas": [0.9]}},
        {"precision": {"compute": "fp8"}},
        {"extends": 3},
    ],
)
def test_the_schema_refuses_what_check_refuses(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json_schema())


def test_every_key_is_described() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for section in schema["$defs"].values():
        assert section["description"], section["title"]
        for key, entry in section["properties"].items():
            described = "description" in entry or "const" in entry
            assert described, f"{section['title']}.{key}"
    assert "null" not in str(schema)


def test_reading_a_spec_needs_no_torch() -> None:
    program = (
        "import sys, llamac.spec; llamac.spec.load_spec('tiny'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_section_is_a_field_of_the_schema() -> None:
    assert list(json_schema()["properties"]) == ["extends", "unset", *Spec.model_fields]


@pytest.mark.parametrize("name", ["tiny", "7b", "llama2-70b", "gpt3-block", "post-norm"])
@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["model.bias=true"],
        ["model.bias=qkv"],
        ["model.bias=attention"],
        ["model.bias=feed_forward"],
        ["model.qk_norm=true"],
        ["model.tied_embeddings=true"],
    ],
)
def test_parameters_are_those_of_the_program(name: str, changes: list[str]) -> None:
    from llamac.passes.pass_list import stages

    spec = load_spec(name, ["parallel.tensor=1", "parallel.data_shard=1", *changes])
    first = next(iter(stages(spec, stop_after="lower")))
    assert spec.model.parameters(spec.batch.sequence_length) == first.program.parameter_count
