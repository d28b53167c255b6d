"""The scanner against tomllib, on documents in every style that TOML knows."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.spec.toml.positions import scan, spans
from llamac.spec.toml.writer import toml_string

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain_text = st.text('ab #=[]{}.,é\\"', max_size=8)
space = st.sampled_from(["", " ", "\t"])
gap = st.sampled_from(["", " ", "\n", " # a comment ] } \" '\n", "\n\n\t"])

scalars = st.one_of(
    st.sampled_from(["1_000", "-3", "0xff", "1e3", "-0.5", "inf", "nan", "true", "false"]),
    st.sampled_from(["1979-05-27 07:32:00", "1979-05-27T07:32:00Z", "07:32:00", "1979-05-27"]),
    any_text.map(toml_string),
    plain_text.map(lambda text: f"'{text}'"),
    st.builds(
        "'''{}{}'''".format,
        plain_text.map(lambda s: f"{s}\n''{s} "),
        st.sampled_from(["", "'", "''"]),
    ),
    st.builds(
        '"""{}{}"""'.format,
        any_text.map(lambda text: toml_string(text)[1:-1] + '\n"" \\"""" '),
        st.sampled_from(["", '"', '""']),
    ),
)
bare_keys = st.text("abZ019_-", min_size=1, max_size=4)
keys = bare_keys | any_text.map(toml_string) | plain_text.map(lambda text: f"'{text}'")


@st.composite
def dotted_keys(draw: st.DrawFn) -> str:
    between = draw(space) + "." + draw(space)
    return between.join(draw(st.lists(keys, min_size=1, max_size=3)))


@st.composite
def arrays(draw: st.DrawFn, elements: st.SearchStrategy[str]) -> str:
    items = [draw(gap) + item + draw(gap) for item in draw(st.lists(elements, max_size=3))]
    comma = draw(st.sampled_from(["", ","])) if items else ""
    return "[" + ",".join(items) + comma + draw(gap) + "]"


@st.composite
def inline_tables(draw: st.DrawFn, elements: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(dotted_keys(), elements), max_size=3))
    return (
        "{" + ",".join(f" {key}{draw(space)}={draw(space)}{value} " for key, value in pairs) + "}"
    )


values = st.recursive(scalars, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)
assignments = st.builds("{} = {}".format, dotted_keys(), values)
headers = st.builds("[{}]".format, dotted_keys()) | st.builds("[[ {} ]]".format, dotted_keys())
statements = assignments | headers | st.sampled_from(["", "# [comment]", "[[data.source]]"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    text = ""
    for line in draw(st.lists(statements, max_size=8)):
        more = f"{text}{draw(space)}{line}{draw(space)}{draw(st.sampled_from(['', '# x']))}\n"
        try:  # what clashes with the lines before is left out
            tomllib.loads(more)
        except tomllib.TOMLDecodeError:
            continue
        text = more
    return text


def walk(
    node: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every path below `node`, with its value."""
    entries: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in entries:
        yield (*path, key), value
        if isinstance(value, dict | list):
            yield from walk(value, (*path, key))


@pytest.mark.slow
@given(documents())
def test_every_value_is_found_where_it_stands(text: str) -> None:
    found = spans(text)
    expected = dict(walk(tomllib.loads(text)))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        key, where = (text[slice(*span)] for span in found[path])
        if isinstance(value, dict | list) and not where.startswith(("{", "[")):
            continue  # a table that only the dotted key of something inside it mentions
        if where.startswith("[") and (isinstance(value, dict) or where.startswith("[[")):
            continue  # a table's header
        assert repr(tomllib.loads(f"value = {where}")["value"]) == repr(value)
        if isinstance(path[-1], str):
            *_, (last, _) = walk(tomllib.loads(f"{key} = 0"))
            assert last[-1] == path[-1]


@pytest.mark.slow
@given(documents())
def test_lines_and_columns_count_from_one(text: str) -> None:
    lines = text.split("\n")
    for path, place in scan(text, "x.toml").items():
        for location, span in zip((place.key, place.value), spans(text)[path], strict=True):
            source = text[slice(*span)].split("\n")[0]
            assert location.source == lines[location.line - 1]
            assert location.source[location.column - 1 :].startswith(source)
            assert location.length == max(1, len(source))


def test_tables_stand_at_their_own_header() -> None:
    text = "[model.rope_scaling]\nkind = 'x'\n[model]\ndim = 8\n[[data.source]]\n[[data.source]]\n"
    places = scan(text, "x.toml")
    assert places["model",].key.line == 3
    assert places["model", "rope_scaling"].key.line == 1
    assert [places["data", "source", index].key.line for index in (0, 1)] == [5, 6]


def test_columns_of_dotted_keys_and_inline_tables() -> None:
    text = "model . dim = 8\nrope = { kind = 'x', factor = 2 } # two\n"
    places = scan(text, "x.toml")
    assert str(places["model", "dim"].value) == "x.toml:1:15"
    assert str(places["rope", "factor"].key) == "x.toml:2:22"
    assert places["rope", "factor"].value.length == 1
