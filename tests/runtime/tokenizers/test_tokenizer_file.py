"""Files that hold a tokenizer, or claim to: SentencePiece's with another EOS, Llama 3's ranks, and
damaged or hostile ones, each of which is one clear error."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from llamac.runtime.data.token_shards import prepare
from llamac.runtime.tokenizers import tokenizer_file
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tiktoken_file import RANKS, to_tokenizer_json
from llamac.runtime.tokenizers.tokenizer import Tokenizer, TokenizerError
from llamac.runtime.tokenizers.tokenizer_json import JsonTokenizer
from tests.runtime.data.test_token_shards import arguments
from tests.runtime.tokenizers.test_tokenizer import corpus, trained
from tests.runtime.tokenizers.test_tokenizer_json import bpe, described

# -- SentencePiece ---------------------------------------------------------------------------------


def endless(kind: str = "bpe") -> bytes:
    """A model without an EOS of its own, with <|end|> as piece 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type=kind,
        vocab_size=400,
        eos_id=-1,
        user_defined_symbols=["<|end|>", "<tab>"],
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("eos", [2, "<|end|>"])
def test_the_end_is_given_to_a_model_that_has_none(kind: str, eos: int | str) -> None:
    tokenizer = Tokenizer(endless(kind), eos)
    again = Tokenizer(tokenizer.model)  # as prepared data keeps it
    assert tokenizer.eos == again.eos == 2
    assert tokenizer.pieces_sha256 == again.pieces_sha256
    text = "a <|end|> b<tab>"
    ids = tokenizer.encode(text).tolist()
    assert 2 not in ids
    assert 3 in ids  # the other symbol is text, and stays a piece of it
    assert tokenizer.decode([*ids, 2]) == text
    assert tokenizer.lossless
    plain = Tokenizer(endless(kind))
    assert plain.eos == -1
    assert plain.encode("a tea").tolist() == tokenizer.encode("a tea").tolist()


def test_another_end_than_the_model_s_own_is_heeded() -> None:
    tokenizer = Tokenizer(trained("bpe").model, "<s>")
    assert (tokenizer.eos, Tokenizer(tokenizer.model).eos) == (1, 1)
    assert Tokenizer(trained("bpe").model, 2).model == trained("bpe").model


@pytest.mark.parametrize(
    ("eos", "why"),
    [
        (4, "'<0x00>', a character of ordinary text.* it has 1 '<s>', 2 '<|end|>', 3 '<tab>'"),
        (0, "'<unk>', a character"),
        ("<0x41>", "a character"),
        (400, "unknown piece in tokenizer.eos: 400"),
        ("</s>", "unknown piece in tokenizer.eos: '</s>'"),
    ],
)
def test_an_end_that_cannot_be_one_is_refused(eos: int | str, why: str) -> None:
    with pytest.raises(TokenizerError, match=why.replace("|", r"\|")):
        Tokenizer(endless(), eos)


def test_a_model_without_an_end_tells_the_way_out(texts: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    path.write_bytes(endless())
    with pytest.raises(
        TokenizerError, match=r"end-of-document piece: set tokenizer\.eos .*; it has 1"
    ):
        prepare(tmp_path / "a", **arguments(texts, tokenizer={"path": str(path)}, vocab_size=400))
    asked = arguments(texts, tokenizer={"path": str(path), "eos": "<|end|>"}, vocab_size=400)
    assert prepare(tmp_path / "b", **asked)["tokenizer"]["eos"] == 2
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    assert load_tokenizer_file(path).eos == 2


def test_a_trained_tokenizer_ends_documents_with_its_own(texts: Path, tmp_path: Path) -> None:
    of = {"kind": "bpe", "train_bytes": 20_000, "path": None}
    with pytest.raises(TokenizerError, match=r"tokenizer\.eos = 2, or leave it out"):
        prepare(tmp_path / "a", **arguments(texts, tokenizer=of | {"eos": 5}))
    assert prepare(tmp_path / "b", **arguments(texts, tokenizer=of | {"eos": "</s>"}))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_part_of_a_model_is_no_model(kind: str, tmp_path: Path) -> None:
    model = trained(kind).model
    for size in [*range(0, len(model), 701), len(model) - 1]:
        with pytest.raises(TokenizerError, match="not a SentencePiece model, or a damaged one"):
            Tokenizer(model[:size])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_changed_byte_gives_a_tokenizer_or_one_error(kind: str, tmp_path: Path) -> None:
    dice, model = random.Random(0), trained(kind).model
    for number in range(40):
        changed = bytearray(model)
        for _ in range(3):
            changed[dice.randrange(len(model))] ^= 1 << dice.randrange(8)
        path = tmp_path / f"{number}.model"
        path.write_bytes(changed)
        try:
            load_tokenizer_file(path).encode("tea 12 世界")
        except TokenizerError as error:
            assert f"{number}.model" in str(error)  # noqa: PT017


# -- hostile files ---------------------------------------------------------------------------------

AB = bpe("</s>", "a", "b")
MANY = {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 100}
HOSTILE: dict[str, tuple[Any, str]] = {
    "panic at once": (
        described(
            AB, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAAAAAAAAA=="}
        ),
        "index out of bounds",
    ),
    "panic while encoding": (
        described(AB, pre_tokenizer={"type": "FixedLength", "length": 0}),
        "chunk size",
    ),
    "panic while decoding": (
        described(AB, decoder={"type": "Strip", "content": "a", "start": 2**63, "stop": 2**63}),
        "damaged one",
    ),
    "an allocation that aborts": (
        described(AB, normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        "its library crashed",
    ),
    "text that grows without end": (
        described(AB, normalizer={"type": "Sequence", "normalizers": [MANY] * 6}),
        "loading takes over 3 s|its library crashed|damaged one",
    ),
    "an enormous id": (
        described({**AB, "vocab": {"</s>": 0, "a": 2**32 - 1}}),
        "its largest id is 4,294,967,295",
    ),
    "nesting": ("[" * 100_000, "not a"),
    "no model": ({"add_bos_token": True, "eos_token": "</s>"}, "model"),
    "a vocabulary alone": ({"</s>": 0, "a": 1}, "model"),
    "a list": ([1], "not a"),
    "a number for a model": (described(AB) | {"model": 7}, "not a"),
    "no vocabulary": (described({**AB, "vocab": {}}), "its largest id|not a"),
    "an unknown piece that is none": (described({**AB, "unk_token": "zz"}), "zz"),
    "no unknown piece": (
        described({"type": "WordLevel", "vocab": {"</s>": 0, "a": 1}, "unk_token": "[UNK]"}),
        "UNK",
    ),
    "half a file": (json.dumps(described(AB))[:-9], "not a"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "why"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_one_error(
    content: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_file, "SECONDS", 3)
    path = tmp_path / "t.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TokenizerError, match=why) as caught:
        load_tokenizer_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.model"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TokenizerError, match="too large for a tokenizer"):
        load_tokenizer_file(path)


def test_a_panic_on_some_text_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = JsonTokenizer(
        json.dumps(described(AB, pre_tokenizer={"type": "FixedLength", "length": 0})).encode()
    )
    with pytest.raises(TokenizerError, match="cannot encode this text"):
        tokenizer.encode("ab")


# -- tiktoken --------------------------------------------------------------------------------------


def ranks() -> dict[bytes, int]:
    """As many as Llama 3's: bytes, then tokens of two and three that are made of others."""
    letters = b" etaoinshrdlucmfwypvbgkjqxz0123456789.,-_()ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(pair) for pair in itertools.product(letters, repeat=2)]
    threes = (bytes(three) for three in itertools.product(letters, repeat=3))
    tokens += itertools.islice(threes, RANKS - len(tokens))
    return {token: rank for rank, token in enumerate(tokens)}


def written(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b"%b %d\n" % (base64.b64encode(t), rank) for t, rank in ranks.items())


def joined(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's algorithm: the pair of lowest rank first, the leftmost of equals."""
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 30))
        if parts[best] + parts[best + 1] not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks[word]] if word in ranks else [ranks[part] for part in parts]


@pytest.mark.slow
def test_llama_3_s_ranks_become_its_tokens(tmp_path: Path) -> None:
    known, path = ranks(), tmp_path / "tokenizer.model"
    path.write_bytes(written(known))
    tokenizer = load_tokenizer_file(path)
    assert (tokenizer.vocab_size, tokenizer.eos) == (128_256, 128_001)
    assert tokenizer.piece(128_009) == "<|eot_id|>"
    assert tokenizer.lossless
    words = ["The", " tea", " is", " strong", "</", "x", ">\n", "né", "123", "45", "\t", "\t", "if"]
    words += [" (", "ab", "),", " 世界", "'s", "\r\n\r\n", "  ", " <|", "end", "_of", "_text", "|>"]
    found = tokenizer.encode("".join(words)).tolist()
    assert found == [i for word in words for i in joined(word.encode(), known)]


@pytest.mark.slow
def test_other_ranks_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path, known = tmp_path / "tokenizer.model", ranks()
    for changed, why in (
        (dict(itertools.islice(known.items(), 256)), "of 256 ranks.* give the tokenizer.json"),
        ({**known, b"a": 5}, "give the tokenizer.json"),
    ):
        path.write_bytes(written(changed))
        with pytest.raises(TokenizerError, match=why):
            load_tokenizer_file(path)
    path.write_bytes(written(known)[:-3000] + b"\xff\xfe 1\n")
    with pytest.raises(TokenizerError, match=r"line \d+ of this tiktoken file is damaged"):
        load_tokenizer_file(path)
    with pytest.raises(ValueError, match="128,000"):
        to_tokenizer_json(b"")
