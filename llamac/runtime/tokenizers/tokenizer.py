"""Train and apply SentencePiece as LLaMA does (LLaMA paper, section 2.1), losslessly.

Digits are split, unknown characters become bytes, and text is not normalised. Two properties of
SentencePiece need a workaround. It represents a space by U+2581 and cannot distinguish the two, so
a real U+2581 is encoded as its three byte pieces. And it silently ignores training lines of 4192
bytes or more, so longer ones are cut.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import RunError
from .sentencepiece_file import check_complete, with_eos
from .tokenizer_file import PROBES

SPACE_MARK = "\u2581"  # character that stands for a space in pieces
LINE_BYTES = 4191  # SentencePiece skips longer training lines
SEGMENT = 1 << 16  # characters that SentencePiece encodes at a time, to bound memory
SAMPLE_BLOCK = 1 << 14  # largest number of characters in a sampled block of text
UNK, BOS, EOS = 0, 1, 2  # LLaMA's ids
SMALLEST_VOCABULARY = 320  # smallest vocabulary of a trained tokenizer: bytes and some characters
LARGEST_VOCABULARY = 1 << 24  # as for model.vocab_size


class TokenizerError(RunError, ValueError):
    """A tokenizer cannot be trained on the text, or its file cannot be used."""


class Tokenizer:
    """A SentencePiece model.

    If it is `lossless`, `decode(encode(text)) == text` for every valid Unicode string. LLaMA's
    model and those of `train_tokenizer` are.

    Text is never encoded to control pieces. It is to user-defined symbols, which SentencePiece
    defines as text that is always one piece, and they decode to themselves. If EOS is such a
    symbol, it becomes a control piece.

    model: contents of the model file. vocab_size: largest id + 1. unk, bos, eos: ids; -1 if the
    model has none. control: names of control pieces and of the unknown piece.
    """

    def __init__(
        self, model: bytes, eos: int | str | None = None, usual: str | None = None
    ) -> None:
        """Load a model from the contents of its file.

        eos: id or text of the piece that ends documents; None for the model's own. usual: text of
        that piece if neither `eos` nor the model specifies it. Raises TokenizerError if the model
        is damaged, or `eos` is unknown or ordinary text.
        """
        sentencepiece = _sentencepiece()
        try:
            check_complete(model)
            self._pieces = pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size: int = pieces.vocab_size()
            self.unk: int = pieces.unk_id()
            if eos is None and pieces.eos_id() < 0 and usual is not None:
                eos = None if pieces.piece_to_id(usual) == pieces.unk_id() else usual
            if eos is not None and (end := self._end(eos)) != pieces.eos_id():
                model = with_eos(model, end, pieces.id_to_piece(end))
                self._pieces = pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            names = [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
        except TokenizerError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise TokenizerError(
                f"not a SentencePiece model, or a damaged one ({error})"
            ) from error
        self.model = model
        self.bos, self.eos = pieces.bos_id(), pieces.eos_id()
        special = (i for i in range(self.vocab_size) if pieces.is_control(i) or i == self.unk)
        self.control: tuple[str, ...] = tuple(names[i] for i in special)
        # A model with a dummy prefix (LLaMA's) adds it to each encoded string, but only the #
        # beginning of a text may have it: later segments are prefixed by a newline, then cut off.
        lead = self._pieces.encode("\n")
        prefixed = bool(lead) and self._pieces.id_to_piece(lead[0]).startswith(SPACE_MARK)
        self._lead, self._lead_tokens = ("\n", len(lead)) if prefixed else ("", 0)
        mark = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._mark: list[int] = [] if self.unk in mark else mark
        # If a piece spans lines, cutting at line ends would change the tokens.
        self._multiline = any("\n" in name for name in names)

    def _end(self, eos: int | str) -> int:
        """Return the id of the piece that `eos` names, if it may end documents."""
        pieces = self._pieces
        token = pieces.piece_to_id(eos) if isinstance(eos, str) else eos
        known = 0 <= token < pieces.vocab_size()
        if not known or (isinstance(eos, str) and pieces.id_to_piece(token) != eos):
            raise TokenizerError(f"unknown piece in tokenizer.eos: {eos!r}")
        piece = pieces.id_to_piece(token)
        text = pieces.is_byte(token) or pieces.is_unknown(token) or len(piece.strip(SPACE_MARK)) < 2
        if text:
            raise TokenizerError(
                f"tokenizer.eos = {eos!r} is {piece!r}, a character of ordinary text, which cannot "
                f"mark the end of a document: name a special piece{self.candidates()}"
            )
        return token

    def candidates(self) -> str:
        """Return "; it has …" with pieces that might end documents, to append to an error message.

        Up to eight ids with their texts in brackets, such as `<|eot|>`; "" without any.
        """
        bracketed = re.compile(r"(<(?!0x)|\[).+[>\]]")
        names = ((i, self.piece(i)) for i in range(self.vocab_size) if i != self.unk)
        pieces = [f"{i} {name!r}" for i, name in names if bracketed.fullmatch(name)]
        return f"; it has {', '.join(pieces[:8])}" if pieces else ""

    @property
    def pieces_sha256(self) -> str:
        """Return the sha256 of all pieces, scores and types in order of id.

        Model files also contain training settings, so different files may have equal vocabularies.
        """
        digest, pieces = hashlib.sha256(), self._pieces
        for i in range(self.vocab_size):
            kind = pieces.is_control(i) + 2 * pieces.is_byte(i) + 4 * pieces.is_unknown(i)
            piece = pieces.id_to_piece(i).encode()
            digest.update(struct.pack("<IfI", len(piece), pieces.get_score(i), kind) + piece)
        return digest.hexdigest()

    @cached_property
    def lost(self) -> list[str]:
        """Return the kinds of text whose examples decoding does not restore exactly.

        They are keys of `PROBES`, and "texts of special tokens". Empty unless the tokenizer
        normalises text or has no pieces for some of it.
        """
        probes = PROBES | {"texts of special tokens": " a ".join(["", *self.control, ""])}
        encoded = zip(probes.items(), self.encode_batch([*probes.values()]), strict=True)
        return [what for (what, text), ids in encoded if self.decode(ids) != text]

    @property
    def lossless(self) -> bool:
        """Return whether decoding restores the examples of all kinds of text, see `lost`."""
        return not self.lost

    def unknown(self, texts: Sequence[str], encoded: Sequence[np.ndarray]) -> int:
        """Return the number of unknown pieces in texts; 0 if the model has no unknown piece.

        encoded: ids of each text, int32 [n].
        """
        return sum(int((ids == self.unk).sum()) for ids in encoded) if self.unk >= 0 else 0

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, int32 [n], without BOS or EOS."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[np.ndarray]:
        """Return the ids of each text, int32 [n], without BOS or EOS.

        threads: number of threads, which affects the speed only.
        """
        split = [list(self._segments(text)) for text in texts]
        strings = [
            segment if i == 0 else self._lead + segment
            for segments in split
            for i, segment in enumerate(segments)
            if segment is not None
        ]
        encoded = iter(self._pieces.encode(strings, num_threads=threads))
        return [np.array(self._join(segments, encoded), dtype=np.int32) for segments in split]

    def _join(self, segments: list[str | None], encoded: Iterator[list[int]]) -> list[int]:
        ids = next(encoded)  # the first segment is never a U+2581
        for segment in segments[1:]:
            ids += self._mark if segment is None else next(encoded)[self._lead_tokens :]
        return ids

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return the text of token ids.

        BOS and EOS decode to nothing. Ids outside the vocabulary, which a model whose vocabulary is
        padded may sample, decode as the unknown piece.
        """
        known = [int(i) if 0 <= i < self.vocab_size else self.unk for i in ids]
        return self._pieces.decode(known)

    def piece(self, token: int) -> str:
        """Return the text of the piece with id `token`, with spaces as U+2581."""
        return self._pieces.id_to_piece(token)

    def score(self, token: int) -> float:
        """Return a piece's score: log-probability (unigram), or larger for earlier merges (BPE).

        token: id of the piece.
        """
        return self._pieces.get_score(token)

    def _segments(self, text: str) -> Iterator[str | None]:
        """Split the text at each U+2581, yielded as None, and long text after line ends.

        Pieces do not span lines. Long lines are split at fixed lengths.
        """
        for number, run in enumerate(text.split(SPACE_MARK) if self._mark else [text]):
            if number:
                yield None
            start = 0
            while len(run) - start > SEGMENT and not self._multiline:
                end = run.rfind("\n", start, start + SEGMENT) + 1 or start + SEGMENT
                yield run[start:end]
                start = end
            yield run[start:]


def train_tokenizer(lines: Iterable[str], *, kind: str, vocab_size: int) -> Tokenizer:
    """Train a SentencePiece model of exactly `vocab_size` pieces, deterministically.

    lines: text without newlines, so that a newline is always its byte piece, and without U+2581.
    kind: "bpe" or "unigram". The ids are LLaMA's: unk 0, bos 1, eos 2, then 256 byte pieces. Raises
    TokenizerError if the text does not allow this vocabulary size, and names those it allows.
    """
    sentencepiece = _sentencepiece()
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # runs of spaces: indentation of code
            split_digits=True,
            byte_fallback=True,
            character_coverage=0.99995,
            max_sentence_length=LINE_BYTES + 1,
            num_threads=1,  # floating-point sums depend on the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(_vocabulary_error(str(error), vocab_size)) from error
    return Tokenizer(model.getvalue())


def _vocabulary_error(message: str, vocab_size: int) -> str:
    if match := re.search(r"value <= (\d+)", message):
        if int(match[1]) < SMALLEST_VOCABULARY:
            return (
                f"the text is too small to train a tokenizer: it allows {match[1]} pieces, and a "
                f"vocabulary has at least {SMALLEST_VOCABULARY}; give more text "
                "(tokenizer.train_bytes, or larger sources)"
            )
        return (
            f"the text is too small for a vocabulary of {vocab_size} pieces: set "
            f"model.vocab_size to at most {match[1]}, or give more text "
            "(tokenizer.train_bytes, or larger sources)"
        )
    if match := re.search(r"required_chars\D*(\d+) vs (\d+)", message):
        return (
            f"a vocabulary of {vocab_size} pieces cannot hold the 259 special and byte pieces and "
            f"this text's characters: set model.vocab_size to more than {match[2]}"
        )
    if "sentences_.empty()" in message:
        return "no text to train a tokenizer on"
    return f"SentencePiece cannot train on this text: {message}"


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the non-blank lines of texts for `train_tokenizer`, in order.

    Lines are also split at U+2581 and into parts of at most `LINE_BYTES` of UTF-8.
    """
    for text in texts:
        for line in text.split("\n"):
            for run in line.split(SPACE_MARK):
                if run.strip():
                    yield from _cut(run)


def _cut(line: str) -> Iterator[str]:
    data = line.encode()
    while len(data) > LINE_BYTES:
        end = LINE_BYTES
        while data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[:end].decode()
        data = data[end:]
    yield data.decode()


def sample_lines(texts: Iterable[str], budget: int, key: str) -> list[str]:
    """Return a random sample of the texts' blocks of lines, at least `budget` bytes, in order.

    A block has at most `SAMPLE_BLOCK` characters. Returns all blocks if they are smaller than
    `budget`. key: seed of the sample. Deterministic: each block gets a pseudo-random rank from
    `key` and its number, and those of lowest rank are sampled. Memory is bounded by the budget.
    """
    heap: list[tuple[int, int, str, int]] = []  # (-rank, number, block, bytes): worst first
    nbytes = 0
    for number, block in enumerate(block for text in texts for block in _blocks(text)):
        rank = hashlib.blake2b(f"{key}\0{number}".encode(), digest_size=8).digest()
        size = len(block.encode())
        heapq.heappush(heap, (-int.from_bytes(rank, "little"), number, block, size))
        nbytes += size
        while nbytes - heap[0][3] >= budget:
            nbytes -= heapq.heappop(heap)[3]
    return [block for _, _, block, _ in sorted(heap, key=lambda entry: entry[1])]


def _blocks(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > SAMPLE_BLOCK:
        end = text.rfind("\n", start, start + SAMPLE_BLOCK) + 1 or start + SAMPLE_BLOCK
        yield text[start:end]
        start = end
    yield text[start:]


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise TokenizerError(
            "the tokenizer needs sentencepiece: pip install sentencepiece"
        ) from error
    return sentencepiece
