"""Whatever is wrong with a spec: a SpecError in plain words, exit code 2, never a traceback."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llamac.cli import main
from llamac.spec import SpecError, load_spec
from llamac.spec.toml.writer import to_toml
from tests.spec.conftest import VALID
from tests.spec.strategies import any_text, documents

in_one_directory = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
junk: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | any_text
    | st.sampled_from(["4M", "1.4T", "60GB", "auto", "files", "rope", 0, -1, 1, 2**31, 10**18]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=4,
)


def slots(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    found = [(node, key) for key in keys]
    for key in keys:
        if isinstance(node[key], dict | list):
            found += slots(node[key])
    return found


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A valid document with some values replaced, deleted, misspelt or added."""
    document = copy.deepcopy(draw(documents()))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(slots(document) or [(document, "model")]))
        match draw(st.sampled_from(["replace", "delete", "misspell", "add"])):
            case "replace":
                container[key] = draw(junk)
            case "delete":
                del container[key]
            case "misspell" if isinstance(container, dict):
                container[key[:-1] + draw(any_text)] = container.pop(key)
            case _ if isinstance(container, dict):
                container[draw(any_text)] = draw(junk)
            case _:
                container.append(draw(junk))
    return without_none(document)


def without_none(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_none(value) for key, value in node.items() if value is not None}
    if isinstance(node, list):
        return [without_none(value) for value in node if value is not None]
    return node


def refused_or_valid(path: str, *overrides: str) -> None:
    """The property: valid, or refused in words that a person can act on."""
    arguments = [part for override in overrides for part in ("--set", override)]
    code = main(["check", path, "--elsewhere", *arguments])
    if code == 0:
        spec = load_spec(path, overrides)
        Path("out.toml").write_text(spec.to_toml(), encoding="utf-8", newline="")
        assert load_spec("out.toml") == spec
        return
    assert code == 2
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    text = str(caught.value)
    assert caught.value.diagnostics
    for diagnostic in caught.value.diagnostics:
        assert diagnostic.location.file in (path, "--set")
        assert diagnostic.message
    assert all(char.isprintable() or char in "\t\n" for char in text)
    assert not re.search(r"pydantic|Input should|Traceback|validation error", text)


@pytest.mark.slow
@in_one_directory
@given(mutated())
def test_broken_documents(here: Path, document: dict[str, Any]) -> None:
    Path("run.toml").write_text(to_toml(document), encoding="utf-8", newline="")
    refused_or_valid("run.toml")


@pytest.mark.slow
@in_one_directory
@given(st.integers(0, len(VALID)), st.integers(0, 20), st.binary(max_size=8))
@example(0, len(VALID), b"")
@example(0, 0, b"\xef\xbb\xbf")
@example(0, 0, b"\r")
def test_broken_files(here: Path, start: int, removed: int, inserted: bytes) -> None:
    raw = VALID.encode()
    Path("run.toml").write_bytes(raw[:start] + inserted + raw[start + removed :])
    refused_or_valid("run.toml")


@in_one_directory
@given(st.binary(max_size=200) | st.text("[]{}\"=.\n\t#a1'\\", max_size=60).map(str.encode))
def test_garbage(here: Path, raw: bytes) -> None:
    Path("run.toml").write_bytes(raw)
    refused_or_valid("run.toml")


override_keys = st.sampled_from(
    [
        *("model.dim", "model.dim.x", "model.rope_scaling", "data", "data.source", "batch.tokens"),
        *("data.source.0.name", "data.source.9", "name", "eval.prompt", "launch.environment"),
    ]
)


@pytest.mark.slow
@in_one_directory
@given(
    st.lists(st.builds("{}={}".format, override_keys | any_text, any_text) | any_text, max_size=3)
)
def test_broken_overrides(here: Path, overrides: list[str]) -> None:
    Path("run.toml").write_text(VALID)
    refused_or_valid("run.toml", *(text for text in overrides if not text.startswith("-")))


def test_many_mistakes_are_all_told(here: Path) -> None:
    size = 3000
    Path("run.toml").write_text(VALID + "\n[eval]\n" + "".join(f"x{n} = 1\n" for n in range(size)))
    with pytest.raises(SpecError) as caught:
        load_spec("run.toml")
    assert len(caught.value.diagnostics) == size
