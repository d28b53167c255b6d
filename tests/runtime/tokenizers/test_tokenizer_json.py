"""tokenizer.json: plain text never becomes a special token, ids may have holes, and what a
tokenizer loses is said or refused."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from llamac.runtime.data.token_shards import PreparedDataMismatch, prepare
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import TokenizerError
from llamac.runtime.tokenizers.tokenizer_json import JsonTokenizer
from tests.runtime.data.test_token_shards import arguments

END = "</s>"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def added(token: int, content: str, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, **flags, "special": special}


def described(model: dict[str, Any], **more: Any) -> dict[str, Any]:
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", "added_tokens": [], **dict.fromkeys(parts), "model": model} | more


def bpe(*pieces: str, **more: Any) -> dict[str, Any]:
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return {"type": "BPE", "vocab": vocabulary, "merges": [], **more}


def byte_level(*first: str, shift: int = 0, **more: Any) -> dict[str, Any]:
    """All 256 bytes after some special pieces; shift: leaves so many ids out between them."""
    from llamac.runtime.tokenizers.tiktoken_file import _byte_letters

    vocabulary = {piece: i for i, piece in enumerate(first)}
    at = len(first) + shift
    vocabulary |= {letter: at + i for i, letter in enumerate(_byte_letters())}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    special = [added(i, piece) for i, piece in enumerate(first)]
    plain = {"added_tokens": special, "pre_tokenizer": BYTES, "decoder": BYTES}
    return described(model, **(plain | more))


def loaded(content: dict[str, Any], eos: int | str | None = None) -> JsonTokenizer:
    return JsonTokenizer(json.dumps(content).encode(), eos)


LETTERS = ["<", "/", "s", ">", "a", "▁", "</", "s>", "</s"]
WORDS = {"type": "WhitespaceSplit"}
FINDERS = {
    "unigram": described(
        {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], [END, 0.0], *([letter, -3.0] for letter in LETTERS)],
        },
        added_tokens=[added(0, "<unk>"), added(1, END)],
    ),
    "words": described(
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, END: 1, "a": 2}},
        added_tokens=[added(1, END)],
        pre_tokenizer=WORDS,
    ),
    "words that are not added": described(
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, END: 1, "a": 2}},
        pre_tokenizer=WORDS,
    ),
    "word pieces": described(
        {
            "type": "WordPiece",
            "unk_token": "<unk>",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"<unk>": 0, END: 1, "a": 2},
        },
        pre_tokenizer=WORDS,
    ),
    "merges": described(
        bpe("<unk>", END, *LETTERS) | {"merges": [["<", "/"], ["s", ">"], ["</", "s>"]]},
        added_tokens=[added(1, END)],
    ),
    "merges as text": described(
        bpe("<unk>", END, *LETTERS) | {"merges": ["< /", "</ s", "</s >"]},
        added_tokens=[added(1, END)],
    ),
    "one id for two pieces": described(
        {
            **bpe("<unk>", END, "a", "b", merges=[["a", "b"]]),
            "vocab": {END: 0, "a": 1, "b": 2, "ab": 0},
        },
    ),
    "whole words": described(bpe("<unk>", END, *LETTERS, ignore_merges=True), pre_tokenizer=WORDS),
    "added, not special": described(
        bpe("<unk>", "x", *LETTERS), added_tokens=[added(20, END, special=False)]
    ),
}


@pytest.mark.parametrize("content", FINDERS.values(), ids=FINDERS.keys())
def test_no_model_finds_the_end_of_a_document_in_text(content: dict[str, Any]) -> None:
    tokenizer = loaded(content)
    assert tokenizer.piece(tokenizer.eos) == END
    for text in (END, f"a {END} a", f"a{END}a", END * 3, "abab"):
        ids = tokenizer.encode(text).tolist()
        assert tokenizer.eos not in ids
    assert "a" in tokenizer.decode(tokenizer.encode("a"))
    assert tokenizer.decode([tokenizer.eos]) == ""


def test_texts_of_special_tokens_survive() -> None:
    tokenizer = loaded(byte_level("<|endoftext|>", "<|pad|>"))
    text = "as <|endoftext|> says,<|pad|><|endoftext|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not {0, 1} & set(tokenizer.encode(text).tolist())
    assert tokenizer.lossless


def test_what_is_added_but_not_special_is_text() -> None:
    content = byte_level("<|endoftext|>")
    content["added_tokens"].append(added(400, "    ", special=False))
    tokenizer = loaded(content)
    assert [tokenizer.piece(i) for i in tokenizer.encode("a    b")] == ["a", "    ", "b"]
    assert tokenizer.lossless


def test_an_end_that_is_also_the_unknown_piece_is_refused_where_text_is_unknown() -> None:
    tokenizer = loaded(described(bpe("<|endoftext|>", "a", unk_token="<|endoftext|>")))
    assert tokenizer.encode("a").tolist() == [1]
    with pytest.raises(TokenizerError, match=r"plain text to its special token '<\|endoftext\|>'"):
        tokenizer.encode("b")


def test_the_same_text_gives_the_same_tokens() -> None:
    content = described(bpe(END, "a", "b", "ab", dropout=0.5) | {"merges": [["a", "b"]]})
    tokenizer = loaded(content)
    assert {tuple(tokenizer.encode("ab" * 9).tolist()) for _ in range(20)} == {(3,) * 9}


# -- which piece ends a document -------------------------------------------------------------------


def test_the_end_is_given_by_id_or_text() -> None:
    content = byte_level("<|one|>", "<|two|>")
    assert loaded(content).eos == -1  # nothing says
    for eos in (1, "<|two|>"):
        tokenizer = loaded(content, eos)
        assert tokenizer.eos == 1
        assert JsonTokenizer(tokenizer.model).eos == 1  # as prepared data keeps it
    with pytest.raises(TokenizerError, match=r"unknown piece in tokenizer\.eos: '<three>'"):
        loaded(content, "<three>")
    with pytest.raises(TokenizerError, match="'a', a character of ordinary text"):
        loaded(content, "a")


def test_the_tokenizer_config_beside_a_file_says_what_ends_a_document(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(byte_level("</s>", "<stop>")))
    assert load_tokenizer_file(path).eos == 0
    for said in ("<stop>", {"content": "<stop>", "lstrip": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": said}))
        assert load_tokenizer_file(path).eos == 1
        assert load_tokenizer_file(path, eos=0).eos == 0
    for said in ('{"eos_token": "<none>"}', "[]", "{", '{"eos_token": null}', "[" * 100_000):
        (tmp_path / "tokenizer_config.json").write_text(said)
        assert load_tokenizer_file(path).eos == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(byte_level("</s>")), encoding=encoding)
    marked = (tmp_path / "t.json").read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16))
    assert marked == (encoding != "utf-8")
    assert load_tokenizer_file(tmp_path / "t.json").eos == 0


# -- ids -------------------------------------------------------------------------------------------


def test_a_vocabulary_with_holes_is_as_large_as_its_largest_id() -> None:
    tokenizer = loaded(byte_level("</s>", shift=70_000))
    assert tokenizer.vocab_size == 70_257
    assert tokenizer.encode("a").tolist()[0] > 70_000
    assert tokenizer.lossless


def test_ids_beyond_the_model_s_vocabulary_are_refused_before_data_is_written(
    texts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(byte_level("</s>", shift=70_000)))
    small: dict[str, Any] = arguments(texts, tokenizer={"path": str(path)}, vocab_size=65_536)
    with pytest.raises(TokenizerError, match=r"ids up to 70,256, .* at least 70257"):
        prepare(tmp_path / "small", **small)
    assert not list((tmp_path / "small").rglob("*.bin"))
    manifest = prepare(tmp_path / "data", **{**small, "vocab_size": 70_257})
    assert manifest["dtype"] == "<u4"


def test_data_remembers_what_ended_its_documents(texts: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(byte_level("<|one|>", "<|two|>")))
    by_text = arguments(texts, tokenizer={"path": str(path), "eos": "<|two|>"})
    manifest = prepare(tmp_path / "data", **by_text)
    assert manifest["tokenizer"]["eos"] == 1
    same = arguments(texts, tokenizer={"path": str(path), "eos": 1})
    assert prepare(tmp_path / "data", **same) == manifest
    other = arguments(texts, tokenizer={"path": str(path), "eos": 0})
    with pytest.raises(PreparedDataMismatch, match=r"tokenizer\.eos"):
        prepare(tmp_path / "data", **other)
    path.rename(tmp_path / "gone.json")
    assert prepare(tmp_path / "data", **same) == manifest
    with pytest.raises(PreparedDataMismatch, match=r"tokenizer\.eos"):
        prepare(tmp_path / "data", **other)
    (tmp_path / "gone.json").rename(path)
    none = arguments(texts, tokenizer={"path": str(path)})
    with pytest.raises(
        TokenizerError,
        match=r"set tokenizer\.eos to its id or text; it has 0 '<\|one\|>', 1 '<\|two",
    ):
        prepare(tmp_path / "other", **none)


# -- what is lost ----------------------------------------------------------------------------------


def test_what_a_normaliser_changes_is_named() -> None:
    assert loaded(byte_level(END, normalizer={"type": "NFC"})).lost == ["decomposed accents"]
    assert loaded(byte_level(END, normalizer={"type": "Lowercase"})).lost == [
        "capitals",
        "composed accents",
        "decomposed accents",
    ]
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    assert "spaces at the ends" in loaded(byte_level(END, normalizer=strip)).lost


def test_what_is_lost_is_said_once_and_noted(texts: Path, tmp_path: Path) -> None:
    path, said = tmp_path / "t.json", []
    path.write_text(json.dumps(byte_level(END, normalizer={"type": "NFC"})))
    asked = arguments(texts, tokenizer={"path": str(path)})
    for _ in range(2):  # prepared, then found
        said.clear()
        manifest = prepare(tmp_path / "data", **asked, progress=lambda what, _: said.append(what))
        assert [line for line in said if "decomposed accents" in line] == [
            "the tokenizer does not restore text exactly: decomposed accents"
        ]
    assert manifest["tokenizer"]["lossless"] is False
    assert manifest["tokenizer"]["lost"] == ["decomposed accents"]


UNKNOWING = {
    "words": FINDERS["words"],
    "word pieces": FINDERS["word pieces"],
    "unigram": FINDERS["unigram"],
    "characters": described(bpe("<unk>", END, "a", unk_token="<unk>")),
    "characters that are dropped": described(bpe("<unk>", END, "a", " ", "e", "t")),
}


@pytest.mark.parametrize("content", UNKNOWING.values(), ids=UNKNOWING.keys())
def test_a_tokenizer_that_does_not_know_the_text_is_refused(
    content: dict[str, Any], texts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    asked = arguments(texts, tokenizer={"path": str(path)})
    with pytest.raises(
        TokenizerError, match=r"source 'a': .* has no pieces for \d+\.\d% .* set tokenizer.path"
    ):
        prepare(tmp_path / "data", **asked)
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_one_unknown_character_in_a_hundred_is_still_taken(tmp_path: Path) -> None:
    for rare, taken in ((1, True), (4, False)):
        (tmp_path / "t.json").write_text(
            json.dumps(described(bpe("<unk>", END, "a", unk_token="<unk>")))
        )
        text = tmp_path / "text.jsonl"
        text.write_text(
            "".join(json.dumps({"text": "a" * 199 + "b" * rare}) + "\n" for _ in range(50))
        )
        source = {
            "name": "a",
            "kind": "files",
            "share": 1,
            "paths": (str(text),),
            "text_field": "text",
        }
        asked = arguments(tmp_path, sources=[source], tokenizer={"path": str(tmp_path / "t.json")})
        if taken:
            assert prepare(tmp_path / f"data{rare}", **asked)
            continue
        with pytest.raises(TokenizerError, match=r"has no pieces for 2\.0%"):
            prepare(tmp_path / f"data{rare}", **asked)
