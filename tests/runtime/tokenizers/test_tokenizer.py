"""The tokenizer: LLaMA's conventions, and an exact round trip."""

from __future__ import annotations

import io
import random
from functools import cache

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.runtime.tokenizers import tokenizer as module
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import (
    SMALLEST_VOCABULARY,
    Tokenizer,
    TokenizerError,
    sample_lines,
    train_tokenizer,
    training_lines,
)
from llamac.spec.rules.between_sections import SMALLEST_TRAINED_VOCABULARY

KINDS = ["bpe", "unigram", "dummy prefix"]

# What could break a round trip: space marks, line ends, bytes, look-alikes of pieces, combining
# and compatibility characters, joined emoji, private use, the last code point.
TRAPS = ["\u2581", "\u2585", "\u2047", " ", "  ", "\n", "\r\n", "\t", "\0", "<s>", "</s>", "<unk>"]
TRAPS += ["<0x41>", "a", "def ", "12", "ﬁ", "Å", "A\u030a", "e\u0301", "\u200d", "👩‍👩‍👧", "\ufeff"]
TRAPS += ["\ue000", "\ufffd", "\uffff", "\U0010ffff", "\u2028", "\x85", "\x1c", "世界", "\u202e"]
texts = st.one_of(
    st.text(), st.lists(st.sampled_from(TRAPS)).map("".join), st.text("\u2581 \n▁é", max_size=9)
)


def corpus() -> list[str]:
    """Lines of made-up words, numbers and indented code."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 7))) for _ in range(300)]
    line = lambda: "    " * source.randint(0, 3) + " ".join(source.choices(words, k=8))  # noqa: E731
    return [f"{line()} = {source.randint(0, 9999)}" for _ in range(600)]


@cache
def trained(kind: str) -> Tokenizer:
    if kind != "dummy prefix":
        return train_tokenizer(corpus(), kind=kind, vocab_size=500)
    model = io.BytesIO()  # as LLaMA's own: a space before every text
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        normalization_rule_name="identity",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue())


def pieces(text: str) -> list[str]:
    tokenizer = trained("bpe")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    return [processor.id_to_piece(int(i)) for i in tokenizer.encode(text)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_every_string_survives(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.unk, tokenizer.bos, tokenizer.eos} & set(ids.tolist())
    assert ids.max(initial=0) < tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
@given(batch=st.lists(texts, max_size=5))
@settings(max_examples=50, deadline=None)
def test_batches_and_threads_change_nothing(kind: str, batch: list[str]) -> None:
    tokenizer = trained(kind)
    singly = [tokenizer.encode(text).tolist() for text in batch]
    assert [ids.tolist() for ids in tokenizer.encode_batch(batch, threads=2)] == singly


def test_special_pieces_have_llamas_ids() -> None:
    tokenizer = trained("bpe")
    assert (tokenizer.unk, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    assert tokenizer.vocab_size == 500
    assert tokenizer.decode([1, *tokenizer.encode("a b"), 2]) == "a b"


def test_numbers_are_split_into_digits() -> None:
    assert pieces("1234") == ["1", "2", "3", "4"]


def test_unknown_characters_and_newlines_are_bytes() -> None:
    assert pieces("😀") == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert pieces("\n") == ["<0x0A>"]


def test_indentation_is_one_piece_and_no_space_is_added() -> None:
    assert pieces("    \n") == ["▁▁▁▁", "<0x0A>"]
    assert not pieces("te")[0].startswith("▁")


def test_a_real_space_mark_is_told_from_a_space() -> None:
    assert pieces("\u2581") == ["<0xE2>", "<0x96>", "<0x81>"]
    assert pieces(" ") == ["▁"]


def test_an_unknown_id_reads_as_the_unknown_piece() -> None:
    tokenizer = trained("bpe")
    assert tokenizer.decode([10**6, -1]) == tokenizer.decode([tokenizer.unk] * 2)


def test_training_is_deterministic_and_the_hash_is_of_the_pieces() -> None:
    again = train_tokenizer(corpus(), kind="bpe", vocab_size=500)
    assert again.model == trained("bpe").model
    other = train_tokenizer(corpus()[:300], kind="bpe", vocab_size=500)
    assert other.pieces_sha256 != again.pieces_sha256
    assert trained("unigram").pieces_sha256 != again.pieces_sha256


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_cut_where_it_does_not_show(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, text = trained(kind), "\n".join(corpus()) + "\n\n"
    whole = tokenizer.encode(text).tolist()
    monkeypatch.setattr(module, "SEGMENT", 200)
    assert tokenizer.encode(text).tolist() == whole
    endless = text.replace("\n", " ")
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


@given(st.lists(st.text(st.sampled_from("aé世😀 \u2581"), max_size=3).map(lambda s: s * 2000)))
@settings(max_examples=20, deadline=None)
def test_training_lines_are_short_enough_for_sentencepiece_and_lose_no_text(
    documents: list[str],
) -> None:
    lines = list(training_lines(documents))
    assert all(0 < len(line.encode()) < 4192 for line in lines)
    text = "".join(documents).replace("\u2581", "")
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_long_lines_are_learnt_from() -> None:
    """SentencePiece alone would skip this line, and the word with it."""
    lines = training_lines(["\n".join(corpus()), "zygomorphic " * 1000])
    tokenizer = train_tokenizer(lines, kind="bpe", vocab_size=500)
    assert len(tokenizer.encode(" zygomorphic")) == 1


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_little_text_tells_the_vocabulary_that_works(kind: str) -> None:
    lines = corpus()[:200]
    with pytest.raises(TokenizerError, match=r"at most \d+") as caught:
        train_tokenizer(lines, kind=kind, vocab_size=4096)
    works = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert train_tokenizer(lines, kind=kind, vocab_size=works).vocab_size == works


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_far_too_little_text_asks_for_more_not_for_an_illegal_vocabulary(kind: str) -> None:
    lines = ["the cat sat on the mat, the dog sat on the cat"] * 3
    with pytest.raises(TokenizerError, match=r"too small .* at least 320; give more") as caught:
        train_tokenizer(lines, kind=kind, vocab_size=4096)
    assert "at most" not in str(caught.value)
    assert SMALLEST_VOCABULARY == SMALLEST_TRAINED_VOCABULARY  # the runtime's and the spec's


def test_too_small_a_vocabulary_tells_how_large_it_must_be() -> None:
    with pytest.raises(TokenizerError, match=r"more than \d+") as caught:
        train_tokenizer(corpus(), kind="bpe", vocab_size=265)
    least = int(str(caught.value).split("more than ")[1]) + 1
    assert train_tokenizer(corpus(), kind="bpe", vocab_size=least).lossless


def test_no_text_at_all_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="no text to train a tokenizer on"):
        train_tokenizer([], kind="bpe", vocab_size=500)


def test_a_lossy_model_says_so() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=200, minloglevel=2
    )
    assert not Tokenizer(model.getvalue()).lossless  # normalised, without byte pieces
    assert all(trained(kind).lossless for kind in KINDS)


def test_what_is_no_model_is_refused(tmp_path) -> None:
    (tmp_path / "x.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match=r"x\.model: not a SentencePiece model"):
        load_tokenizer_file(tmp_path / "x.model")


def test_a_file_that_cannot_be_read_is_named(tmp_path) -> None:
    for path, why in ((tmp_path / "gone.model", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(TokenizerError, match=rf"cannot read the tokenizer {path}: {why}"):
            load_tokenizer_file(path)


def test_a_sample_keeps_the_budget_the_order_and_is_spread_evenly() -> None:
    documents = [f"{number:04} " * 200 for number in range(1000)]  # 1 kB each
    chosen = sample_lines(documents, 100_000, "key")
    numbers = [int(text[:4]) for text in chosen]
    assert len(chosen) == 100
    assert numbers == sorted(numbers)
    assert all(any(lo <= n < lo + 250 for n in numbers) for lo in range(0, 1000, 250))
    assert sample_lines(iter(documents), 100_000, "key") == chosen
    assert sample_lines(documents, 100_000, "other") != chosen
    assert sample_lines(documents, 10**9, "key") == documents


def test_a_sample_takes_parts_of_long_documents() -> None:
    text = "".join(f"{number:07}\n" for number in range(100_000))
    chosen = sample_lines([text], 100_000, "key")
    assert 100_000 <= sum(map(len, chosen)) < 120_000
    assert all(block in text and block.endswith("\n") for block in chosen)
