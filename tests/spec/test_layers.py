"""`extends` and `--set`: who has the last word, and what is said when it makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamac.spec import Spec, SpecError, load_spec
from llamac.spec.validation.errors import printable
from tests.spec.conftest import VALID

Load = Callable[..., Spec]
Errors = Callable[..., str]


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)


def test_tables_merge_key_by_key_and_arrays_are_replaced(here: Path) -> None:
    source = '[[data.source]]\nname = "code"\nkind = "python-source"\nshare = 1\n'
    write(here, base=VALID, run=f'extends = "base.toml"\n[model]\nn_layers = 7\n{source}')
    spec = load_spec("run.toml")
    assert (spec.name, spec.model.n_layers, spec.model.dim) == ("run", 7, 64)
    assert [source.name for source in spec.data.source] == ["code"]
    assert spec.where("model.n_layers") == "run.toml:3"
    assert spec.where("model.dim") == "base.toml:2"
    assert spec.where("data.source.0.share") == "run.toml:7"


def test_extends_goes_from_the_file_it_stands_in_to_shipped_specs(here: Path) -> None:
    (here / "sub").mkdir()
    write(here, base=VALID)
    write(here / "sub", run='extends = "../base.toml"\n', mine='extends = "65b"\nname = "mine"\n')
    assert load_spec("sub/run.toml").model.dim == 64
    assert load_spec("sub/mine.toml").model.dim == 8192


def test_the_later_of_two_alternatives_replaces_the_earlier(here: Path) -> None:
    write(here, base=VALID, run='extends = "base.toml"\n[batch]\ntokens = 320\nmicro_batch = 5\n')
    assert load_spec("run.toml").batch.sequences == 10
    assert load_spec("run.toml", ["batch.sequences=20"]).batch.tokens == 640
    assert load_spec("run.toml", ["schedule.tokens=32000"]).total_steps == 100


def test_circles_are_named(here: Path) -> None:
    write(here, a='extends = "b.toml"\n', b='extends = "a.toml"\n', own='extends = "own.toml"\n')
    with pytest.raises(SpecError, match=r"b\.toml:1:11: error: .*a\.toml → b\.toml → a\.toml"):
        load_spec("a.toml")
    with pytest.raises(SpecError, match=r"own\.toml:1:11: error: .*own\.toml → own\.toml"):
        load_spec("own.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('extends = "gone.toml"', 'run.toml:1:11: error: cannot read the spec "gone.toml"'),
        ("extends = 3", "run.toml:1:11: error: `extends` must be the path of another spec, not 3"),
        ('extends = "."', 'run.toml:1:11: error: cannot read the spec "."'),
        ('extends = "\\u0000"', "run.toml:1:11: error: cannot read the spec: no path"),
        ("extends = []", "`extends` must be the path of another spec, not an array"),
    ],
)
def test_bases_that_cannot_be(errors: Errors, line: str, message: str) -> None:
    assert message in errors(f"{line}\n{VALID}")


def test_errors_in_a_base_name_the_base(here: Path) -> None:
    write(here, base=VALID.replace("dim = 64", "dim = 0"), run='extends = "base.toml"\n')
    with pytest.raises(SpecError, match=r"^base\.toml:2:7: error: `dim` must be at least 1"):
        load_spec("run.toml")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.dim=128", "model.dim", 128),
        ("optimizer.lr=3e-4", "optimizer.lr", 3e-4),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
        ("eval.prompt=Once upon a time", "eval.prompt", "Once upon a time"),
        ('eval.prompt="3"', "eval.prompt", "3"),
        ("eval.prompt=", "eval.prompt", ""),
        ("eval.prompt=a = b # c", "eval.prompt", "a = b # c"),
        ("eval.prompt=x\ny=1", "eval.prompt", "x\ny=1"),
        ("batch . sequences = 16", "batch.sequences", 16),
        ("data.source.0.share=9", "data.source.0.share", 9),
        ("launch.environment.A=b", "launch.environment.A", "b"),
        ("name=other", "name", "other"),
    ],
)
def test_set_takes_toml_and_falls_back_to_text(
    load: Load, override: str, key: str, value: object
) -> None:
    spec = load(VALID, override)
    found: object = spec
    for part in key.split("."):
        if isinstance(found, dict):
            found = found[part]
        else:
            found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value
    assert spec.where(key) == printable(f"--set {override}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dim", "missing `=`"),
        ("=3", 'the string "" is not a key'),
        ("model..dim=3", 'the string "model..dim" is not a key'),
        ("[model]\ndim=3", "is not a key"),
        ("model.dim.x=3", "`model.dim` is 64 and has no keys"),
        (
            "data.source.2.share=1",
            '`data.source` is an array without the index the string "2"',
        ),
        ("data.source.first.share=1", "it has entries 0 to 1"),
        ("extends=tiny", "`extends` can only be given in the file"),
        ("eval.prompt=\udcff", "not text in UTF-8"),
        ("modle.dim=3", "did you mean `model`?"),
    ],
)
def test_set_that_makes_no_sense_points_at_its_text(
    errors: Errors, override: str, message: str
) -> None:
    said = errors(VALID, override)
    assert message in said
    assert said.startswith("--set:1:")


def test_all_wrong_sets_are_told_at_once(errors: Errors) -> None:
    assert errors(VALID, "nonsense", "data.source.7.share=1", "model.dim=64").count("error:") == 2


def test_a_child_unsets_what_its_base_gives(here: Path) -> None:
    write(
        here,
        base=VALID.replace("dim = ", "ffn_dim = 96\ndim = ", 1),
        run='extends = "base.toml"\nunset = ["model.ffn_dim", "data.phase"]\n',
        other='extends = "base.toml"\nunset = ["schedule"]\n[schedule]\nsteps = 7\nwarmup_steps=1',
    )
    base = load_spec("base.toml")
    with pytest.raises(
        SpecError, match=r"run.toml:2:27: error: the string \"data.phase\" is not set"
    ):
        load_spec("run.toml")
    write(here, run='extends = "base.toml"\nunset = ["model.ffn_dim"]\n')
    assert base.model.ffn_dim == 96
    assert load_spec("run.toml").model.ffn_dim != 96
    assert not load_spec("run.toml").model.is_set("ffn_dim")
    assert load_spec("other.toml").schedule.steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('unset = ["model.dim"]', "`unset` removes keys of a base spec, but there is no `extends`"),
        ('extends = "tiny"\nunset = "model.dim"', "`unset` must be an array of dotted keys"),
        ('extends = "tiny"\nunset = ["model.dmi"]', "is not set in the base spec"),
    ],
)
def test_what_cannot_be_unset_is_said_with_its_place(here: Path, text: str, message: str) -> None:
    write(here, run=text + "\n")
    with pytest.raises(SpecError, match=message) as caught:
        load_spec("run.toml")
    assert caught.value.diagnostics[0].location.line == text.count("\n") + 1
