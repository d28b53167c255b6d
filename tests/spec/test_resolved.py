"""What a valid spec comes to, and that it survives being written out."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from llamac.spec import Spec, SpecError, load_spec
from llamac.spec.model import Model
from llamac.spec.toml.writer import to_toml
from tests.spec.conftest import VALID
from tests.spec.strategies import documents

Load = Callable[..., Spec]
in_one_directory = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.mark.parametrize(
    ("model", "resolved"),
    [
        ({}, (4, 16, 256)),
        ({"multiple_of": 32}, (4, 16, 192)),
        ({"n_kv_heads": 2, "head_dim": 8}, (2, 8, 256)),
        ({"activation": "gelu"}, (4, 16, 256)),
        ({"activation": "relu", "multiple_of": 100}, (4, 16, 256)),
        ({"ffn_dim": 99}, (4, 16, 99)),
    ],
)
def test_derived_sizes(model: dict[str, Any], resolved: tuple[int, int, int]) -> None:
    built = Model.model_validate({"dim": 64, "n_layers": 1, "n_heads": 4, **model})
    assert (built.n_kv_heads, built.head_dim, built.ffn_dim) == resolved


def test_batch_and_schedule(load: Load) -> None:
    spec = load(VALID)
    assert (spec.batch.sequences, spec.batch.tokens, spec.total_steps) == (8, 256, 100)
    spec = load(VALID, "batch.tokens=512", "schedule.tokens=10_001")
    assert (spec.batch.sequences, spec.batch.tokens) == (16, 512)
    assert spec.total_steps == 20, "a budget in tokens is rounded up to whole steps"


def test_where(load: Load, here: Path) -> None:
    spec = load(VALID)
    assert spec.where("model.dim") == "run.toml:2"
    assert spec.where("model.norm_eps") == "run.toml:1", "a default is said by its section"
    assert spec.where("data.source.1.share") == "run.toml:15"
    assert spec.where("log.every") == "default"
    assert spec.where("name") == "default"
    assert load_spec(here / "run.toml").where("model.dim") == "run.toml:2"


def test_where_is_one_printable_line(load: Load) -> None:
    """It becomes a comment in generated files, where a line break would become code."""
    spec = load(VALID, "eval.prompt=x\nimport os\r\u2028")
    assert spec.where("eval.prompt") == "--set eval.prompt=x\ufffdimport os\ufffd\ufffd"


def test_sections_are_frozen(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(VALID).model.dim = 3


def test_replace_validates_and_lets_derived_values_follow(load: Load) -> None:
    spec = load(VALID)
    small = spec.replace({"model.dim": 32, "batch.tokens": 128, "data.source.0.share": 9.0})
    assert (small.model.head_dim, small.batch.sequences) == (8, 4)
    assert (small.name, small.data.source[0].share, spec.model.dim) == ("run", 9.0, 64)
    assert small.where("model.n_heads") == "run.toml:4"
    assert small.where("model.dim") == "replace model.dim = 32"
    assert spec.replace({"model.vocab_size": None}).model.vocab_size == 32_000
    with pytest.raises(SpecError, match="dim = 66 does not divide"):
        spec.replace({"model.dim": 66})


def test_replace_takes_sections_and_specs_built_in_python(load: Load) -> None:
    spec = load(VALID)
    built = Spec(**dict(spec))
    assert built == spec
    changed = built.replace({"data.source": spec.data.source[:1], "schedule.tokens": 256_000})
    assert [source.name for source in changed.data.source] == ["docs"]
    assert changed.total_steps == 1000


@pytest.mark.slow
@in_one_directory
@given(documents())
def test_valid_specs_survive_being_written_out(here: Path, document: dict[str, Any]) -> None:
    Path("run.toml").write_text(to_toml(document), encoding="utf-8", newline="")
    spec = load_spec("run.toml")
    text = spec.to_toml()
    Path("out.toml").write_text(text, encoding="utf-8", newline="")
    again = load_spec("out.toml")
    assert again == spec
    assert again.to_toml() == text
    assert spec.replace({}) == spec
    assert Spec(**dict(spec)).to_toml() == text


@pytest.mark.slow
@in_one_directory
@given(documents())
def test_the_writer_writes_what_tomllib_reads(document: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(document)) == document


def test_equal_specs_are_written_alike(load: Load, here: Path) -> None:
    spec = load('name = "run"\n' + VALID)
    os.rename("run.toml", "other.toml")
    assert load_spec("other.toml").to_toml() == spec.to_toml()
