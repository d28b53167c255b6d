"""The one reader of files: names, encodings, JSON, CSV, parquet, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from llamac.runtime.data.sources import decompress, records
from llamac.runtime.data.sources import input_files as inputs
from llamac.runtime.data.sources.conversations import check_source
from llamac.runtime.data.sources.input_files import file_list
from llamac.runtime.data.sources.records import Record, read_file
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.errors import InputError

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
    ".zstd": zstandard.compress,
}
ROWS = [{"id": 1, "text": 'one, "quoted"\r\nline', "url": "http://a"}, {"id": 2, "text": "zwei ü"}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
CSV = 'id,text,url\r\n1,"one, ""quoted""\r\nline",http://a\r\n\r\n2,zwei ü,\r\n'
SPELLED = {
    ".jsonl": LINES,
    ".ndjson": LINES.replace(b"\n", b"\r\n"),
    ".jsonlines": LINES,
    ".json": LINES,
    ".csv": CSV.encode(),
    ".tsv": CSV.replace(", ", "\0").replace(",", "\t").replace("\0", ", ").encode(),
}


def read(path: Path, text_field: str = "text") -> tuple[list[Record], dict[str, int]]:
    skipped = Skipped()
    return list(read_file(str(path), text_field, skipped)), dict(skipped.counts)


def texts(path: Path, text_field: str = "text") -> list[str]:
    found, counts = read(path, text_field)
    assert counts == {}
    return [record.text for record in found]


def source(*paths: Any, **more: Any) -> dict[str, Any]:
    return {"name": "a", "kind": "files", "paths": [str(path) for path in paths], **more}


# --- Names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("ending", SPELLED)
def test_records_are_the_same_however_they_are_spelled_and_packed(
    tmp_path: Path, ending: str, suffix: str
) -> None:
    for name in ("a" + ending + suffix, "B" + (ending + suffix).upper()):
        (tmp_path / name).write_bytes(PACKED[suffix](SPELLED[ending]))
        assert texts(tmp_path / name) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("suffix", PACKED)
def test_parquet_may_be_packed_as_a_whole(tmp_path: Path, suffix: str) -> None:
    parquet.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "raw")
    path = tmp_path / f"a.PARQUET{suffix}"
    path.write_bytes(PACKED[suffix]((tmp_path / "raw").read_bytes()))
    assert texts(path) == ["one", "two"]


def test_the_compression_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES))
    (tmp_path / "b.txt.gz").write_bytes(zstandard.compress(b"text"))
    (tmp_path / "c.txt").write_bytes(b"BZh is how a text may begin")
    assert len(texts(tmp_path / "a.jsonl")) == 2
    assert texts(tmp_path / "b.txt.gz") == ["text"]
    assert texts(tmp_path / "c.txt") == ["BZh is how a text may begin"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.html", 'kind = "commoncrawl" or "c4"'),
        ("a.warc.gz", 'kind = "commoncrawl" or "c4"'),
        ("a.XML.bz2", 'kind = "wikipedia"'),
        ("a.tex", 'kind = "arxiv"'),
        ("a.py", 'kind = "github"'),
        ("a.bin", 'kind = "tokens"'),
        ("a.tar.gz", "unpack it"),
        ("a.pdf", "convert or rename it"),
        ("README", "convert or rename it"),
        ("ajsonl", "convert or rename it"),
        ("a.json.lz4", "convert or rename it"),
    ],
)
def test_an_unknown_name_is_refused_with_what_would_do(
    tmp_path: Path, name: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    for refused in (
        lambda: file_list(source(tmp_path / "*")),
        lambda: read(tmp_path / name),
    ):
        with pytest.raises(InputError) as error:
            refused()
        assert name in str(error.value)
        assert remedy in str(error.value)
        assert ".jsonlines" in str(error.value)
        assert error.value.exit_code == 2


@pytest.mark.parametrize("url", ["s3://b/a.jsonl", "https://x.org/a.txt", "hf://datasets/a/b"])
def test_remote_paths_are_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is remote.*download it") as error:
        file_list(source(tmp_path / "a.txt", url))
    assert error.value.at == ("paths", 1)


def test_brackets_in_a_files_own_name_are_no_pattern(tmp_path: Path) -> None:
    for name in ("a [v2]/x[1].txt", "a [v2]/x[2].txt", "a [v2]/y.txt", "x1.txt", "x2.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    base = tmp_path / "a [v2]"
    assert file_list(source(base / "x[1].txt")) == [str(base / "x[1].txt")]
    assert len(file_list(source(base / "*.txt"))) == 3
    assert len(file_list(source(tmp_path / "x[12].txt"))) == 2


def test_a_pattern_without_a_match_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        file_list(source("none/*.txt"))
    assert str(error.value) == f"no file matches 'none/*.txt' in {tmp_path}"
    assert error.value.at == ("paths", 0)


def test_a_directory_that_spark_wrote_is_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet"
    names = ("part-0.snappy.parquet", "year=2020/part-1.c000", "_SUCCESS", ".part-0.crc", "_x/y")
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"text": [str(number)]}), folder / name)
    expected = [str(folder / names[0]), str(folder / names[1])]
    assert file_list(source(folder)) == expected
    assert file_list(source(tmp_path / "*")) == expected
    assert file_list(source(folder / "**/*", folder)) == expected
    assert [texts(Path(path)) for path in expected] == [["0"], ["1"]]


def test_a_name_that_is_not_utf8_can_be_told(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_bytes(b"broken\n" + LINES)
    skipped = Skipped()
    assert len(list(read_file(path, "text", skipped))) == 2
    (example,) = skipped.examples
    assert example.endswith(r"caf\udce9.jsonl:1: invalid JSON")
    json.dumps(example, ensure_ascii=False).encode()
    table = path.replace(".jsonl", ".parquet")
    with open(table, "wb") as file:
        parquet.write_table(pa.table({"text": ["one"]}), file)
    assert texts(Path(table)) == ["one"]


# --- Text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, ending: str) -> None:
    text = SPELLED[ending].decode() if ending in SPELLED else "one\r\nzwei ü 😀\n"
    mark = "\ufeff" if encoding.endswith("e") else ""
    (tmp_path / f"a{ending}").write_bytes((mark + text).encode(encoding))
    expected = [row["text"] for row in ROWS] if ending in SPELLED else [text]
    assert texts(tmp_path / f"a{ending}") == expected


def test_utf16_without_a_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("text".encode("utf-16-le"))
    assert read(tmp_path / "a.txt") == ([], {"NUL in text": 1})
    (tmp_path / "b.txt").write_bytes("text".encode("utf-16") + b"\0")
    assert read(tmp_path / "b.txt")[1] == {"invalid UTF-16": 1}


def test_control_characters_and_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    text = "a\x01\x1b[0m\x85\u2028\r\nb\rc\fd\x7f"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode())
    assert texts(tmp_path / "a.txt") == texts(tmp_path / "a.jsonl") == [text]


# --- JSON ------------------------------------------------------------------------------------

OBJECTS = {
    "array": json.dumps(ROWS),
    "array, indented": "\n " + json.dumps(ROWS, indent=2),
    "array over lines": "[" + ",\n".join(map(json.dumps, ROWS)) + "]\n",
    "one after the other": "".join(json.dumps(row, indent=1) for row in ROWS),
    "arrays": "".join(json.dumps([row]) + "\n" for row in ROWS),
    "lines": LINES.decode(),
    "lines, the first one broken": '{"text": "half\n' + LINES.decode(),
}


@pytest.mark.parametrize("form", OBJECTS)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_json_is_told_apart_by_content(
    tmp_path: Path, form: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "CHUNK_BYTES", chunk)
    (tmp_path / "a.json").write_text(OBJECTS[form])
    found, counts = read(tmp_path / "a.json")
    assert [record.text for record in found] == [row["text"] for row in ROWS]
    assert found[0].meta == {"url": "http://a"}
    assert counts == ({"invalid JSON": 1} if "broken" in form else {})


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_one_record(tmp_path: Path, indent: int | None) -> None:
    row = {"a": [{"text": "inner", "b": '\\"}]{'}], "text": 'outer "]}\\'}
    (tmp_path / "a.json").write_text(json.dumps(row, indent=indent))
    assert texts(tmp_path / "a.json") == ['outer "]}\\']


def test_a_broken_value_of_an_array_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": tow}, 7, {"text": "three"}, {"te')
    found, counts = read(tmp_path / "a.json")
    assert [record.text for record in found] == ["one", "three"]
    assert counts == {"invalid JSON": 2, "no field 'text'": 1}


@pytest.mark.parametrize("end", [",\r\n", ", ", "", ', ["a"], [', ', {"te'])
def test_an_array_cut_off_is_counted(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}' + end)
    found, counts = read(tmp_path / "a.json")
    assert [record.text for record in found] == ["one"]
    assert counts["invalid JSON"] == 1


def test_a_value_too_long_to_hold_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LINE_BYTES", 50)
    monkeypatch.setattr(decompress, "CHUNK_BYTES", 20)
    values = [{"text": "one"}, {"text": "[{" * 100}, {"text": "three"}]
    (tmp_path / "a.json").write_text(json.dumps(values))
    found, counts = read(tmp_path / "a.json")
    assert [record.text for record in found] == ["one", "three"]
    assert counts == {"record too long": 1}


def test_what_json_allows_is_read(tmp_path: Path) -> None:
    lines = [
        '{"text": "long integer", "id": ' + "9" * 5000 + "}",
        '{"text": "large integer", "score": 1' + "0" * 400 + "}",
        '{"text": "NaN", "score": NaN, "site": Infinity}',
        '{"text": "first", "text": "twice"}',
        '{"text": "half", "title": "\\ud800"}',
        '{"text": "deep", "x": ' + "[" * 500 + "]" * 500 + "}",
        '{"text": "\\ud83d\\ude00"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found, counts = read(tmp_path / "a.jsonl")
    expected = ["long integer", "large integer", "NaN", "twice", "half", "deep", "😀"]
    assert [record.text for record in found] == expected
    assert all(not record.meta for record in found if record.text != "half")
    assert counts == {}


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.timeout(60)
def test_deep_json_is_counted_in_linear_time(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b'{"text": "one"}\n' + b'{"text": ' * 200_000 + b"\n" + b'{"text": "two"}\n')
    start = time.perf_counter()
    assert [record.text for record in read(path)[0]] == ["one", "two"]
    assert read(path)[1] == {"invalid JSON": 1}
    assert time.perf_counter() - start < 5


# --- CSV -------------------------------------------------------------------------------------


def test_odd_rows_of_a_csv_cost_themselves(tmp_path: Path) -> None:
    rows = [b"text,url", b"one,u", b'"bad"quote,u', b"three", b"f\xff,u", b'"six\n7",u', b"eight,u"]
    (tmp_path / "a.csv").write_bytes(b"\n".join(rows))
    found, counts = read(tmp_path / "a.csv")
    assert [(record.text, record.line) for record in found] == [
        ("one", 2),
        ("six\n7", 6),
        ("eight", 8),
    ]
    assert counts == {"broken CSV": 1, "wrong number of fields": 1, "invalid Unicode": 1}


def test_long_fields_of_a_csv_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"' + "long \n" * 100_000 + '"\n')
    assert texts(tmp_path / "a.csv") == ["long \n" * 100_000]


# --- Parquet ---------------------------------------------------------------------------------


def test_columns_that_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    far = pa.array([2**62, None], pa.int64())
    table = pa.table(
        {
            "at": far.cast(pa.timestamp("us")),
            "zone": far.cast(pa.timestamp("ns", "Mars/Olympus")),
            "day": pa.array([2**31 - 1, None], pa.int32()).cast(pa.date32()),
            "took": far.cast(pa.duration("s")),
            "text": ["one", "two"],
            "title": pa.array(["a", None]).dictionary_encode(),
            "score": [0.5, float("nan")],
            "url": [["a list"], None],
            "metadata": [{"language": "en", "when": 1, "site": None}, None],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found, counts = read(tmp_path / "a.parquet")
    assert [(record.text, record.meta) for record in found] == [
        ("one", {"title": "a", "score": 0.5, "language": "en"}),
        ("two", {}),
    ]
    assert counts == {}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()]
)
def test_any_type_of_string_is_a_text(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"one", b"caf\xe9", "drei ü".encode()])
    column = pa.Array.from_buffers(pa.string(), 3, values.buffers()).cast(kind, safe=False)
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    found, counts = read(tmp_path / "a.parquet")
    assert [(record.text, record.line) for record in found] == [("one", 1), ("drei ü", 3)]
    assert counts == {"invalid Unicode": 1}


def test_a_broken_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    column = [os.urandom(20).hex() for _ in range(30)]
    parquet.write_table(pa.table({"text": column}), path, row_group_size=10, use_dictionary=False)
    at = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at : at + 60] = b"\xff" * 60
    path.write_bytes(data)
    found, counts = read(path)
    assert [record.text for record in found] == column[:10] + column[20:]
    assert [record.line for record in found][10] == 21
    assert counts == {"broken parquet": 1}


def test_columns_of_other_types_are_no_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [["a"]], "b": [1]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ([], {"not text": 1})
    assert read(tmp_path / "a.parquet", "b") == ([], {"not text": 1})


@pytest.mark.slow
@pytest.mark.parametrize("column", ["text", "url"])
def test_a_dictionary_that_repeats_a_long_value_is_a_bomb(
    tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "FREE_BYTES", 1 << 20)
    most = 0
    values = pa.DictionaryArray.from_arrays([0] * 20_000, ["x" * 500_000])
    other = "url" if column == "text" else "text"
    table = pa.table({column: values, other: ["short"] * 20_000})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 5000
    before = pa.total_allocated_bytes()
    skipped = Skipped()
    for count, record in enumerate(read_file(str(tmp_path / "a.parquet"), "text", skipped), 1):
        most = max(most, pa.total_allocated_bytes() - before)
        if column == "url" and count == 300:
            break
        assert len(record.text) <= 500_000
    assert most < 6 << 26
    assert column == "url" or skipped.counts == {"expands too far": 1}


# --- What can be read at all -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ending", [*SPELLED, ".parquet"])
def test_a_text_field_that_no_column_has_is_named_with_those_there_are(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_bytes(SPELLED[ending])
    check_source(source(path))
    with pytest.raises(InputError) as error:
        check_source(source(path, text_field="body"))
    assert str(error.value).startswith(f"source 'a': {path} has no field or column 'body'")
    assert "text_field to one of id, text, url" in str(error.value)
    assert error.value.at == ("text_field",)


def test_checking_reads_no_more_than_beginnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(LINES * 1000))
    opened: list[str] = []
    whole = decompress.read_decompressed
    monkeypatch.setattr(
        decompress,
        "read_decompressed",
        lambda path, skipped: opened.append(path) or whole(path, skipped),
    )
    check_source(source(tmp_path / "*"))
    assert len(opened) == records.SAMPLED_FILES


def test_names_and_hints_do_not_overlap() -> None:
    hinted = chain.from_iterable(ends for ends, _ in inputs._HINTS)
    assert not {*hinted} & {*inputs.ENDINGS}


def test_which_of_several_text_columns_is_meant_is_not_guessed(tmp_path: Path) -> None:
    column = pa.array(["one", "two"])
    table = pa.Table.from_arrays([column, column], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,text\r\none,two\r\n")
    for name in ("a.parquet", "a.csv"):
        assert read(tmp_path / name) == ([], {"several columns 'text'": 1})
