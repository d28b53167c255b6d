"""Convert SentencePiece models to an equivalent tokenizer.json.

The two libraries differ in three ways. SentencePiece merges the pair with the highest score, the
leftmost of equal ones; tokenizers merges by rank, so merges into the same piece are ranked by the
length of their left part, which reproduces leftmost merging of repeated characters. SentencePiece
always adds its dummy prefix, which requires the `Prepend` normaliser. Control pieces never match
text in SentencePiece; in tokenizers they are special tokens.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llamac.convert.errors import ConversionError
from llamac.runtime.tokenizers.sentencepiece_file import NORMALIZER, PIECES, TRAINER, fields
from llamac.runtime.tokenizers.tiktoken_file import special_token

SPACE = "\u2581"  # in pieces, stands for a space
# Types of pieces in a SentencePiece model.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2  # TrainerSpec.model_type; 1 is unigram


class ScoredPiece(NamedTuple):
    """A vocabulary entry.

    score: in BPE, the priority of merging into this piece, highest first; else log-probability.
    kind: SentencePiece's type of piece, such as NORMAL or CONTROL.
    """

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePiece:
    """Vocabulary and encoding options of a SentencePiece model.

    pieces: vocabulary by id. bpe: whether it is BPE, not unigram.
    byte_fallback: whether unknown characters become pieces of bytes.
    dummy_prefix: whether a space is put before every text.
    strips_spaces: whether outer spaces are removed and repeated ones reduced to one.
    charsmap: compiled rules that normalise characters; empty if there are none.
    bos, eos: token ids; -1 if the model has none.
    """

    pieces: Sequence[ScoredPiece]
    bpe: bool
    byte_fallback: bool = True
    dummy_prefix: bool = True
    strips_spaces: bool = False  # `remove_extra_whitespaces`
    charsmap: bytes = b""  # of the normaliser, compiled
    bos: int = 1
    eos: int = 2

    @property
    def unk(self) -> int:
        """Return the id of the unknown token; -1 if the model has none."""
        kinds = [piece.kind for piece in self.pieces]
        return kinds.index(UNKNOWN) if UNKNOWN in kinds else -1


def parse(model: bytes) -> SentencePiece:
    """Return the vocabulary and options in the contents of a SentencePiece model file.

    Raises ConversionError for a kind of model that the tokenizers library cannot reproduce.
    """
    pieces: list[ScoredPiece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value, _ in fields(model):
        if number == PIECES:
            entry = _values(value)
            score = struct.unpack("<f", entry[2])[0] if 2 in entry else 0.0
            pieces.append(ScoredPiece(entry[1].decode(), score, entry.get(3, NORMAL)))
        elif number == TRAINER:
            trainer |= _values(value)
        elif number == NORMALIZER:
            normalizer |= _values(value)
    kind = trainer.get(3, 1)
    if kind not in (1, BPE):
        raise ConversionError(
            "a SentencePiece model of words or characters cannot be written as tokenizer.json"
        )
    if trainer.get(24) or not normalizer.get(5, 1):
        raise ConversionError("this SentencePiece model marks spaces in another way than LLaMA's")
    if any(piece.kind == UNUSED for piece in pieces):
        raise ConversionError(
            "a SentencePiece model with unused pieces cannot be written as tokenizer.json"
        )
    return SentencePiece(
        pieces,
        kind == BPE,
        byte_fallback=bool(trainer.get(35)),
        dummy_prefix=bool(normalizer.get(3, 1)),
        strips_spaces=bool(normalizer.get(4, 1)),
        charsmap=normalizer.get(2, b""),
        bos=_to_signed(trainer.get(41, 1)),
        eos=_to_signed(trainer.get(42, 2)),
    )


def _values(message: bytes) -> dict[int, Any]:
    """Return the last value of each protobuf field: varints as integers, others as bytes."""
    return {number: value for number, value, _ in fields(message)}


def _to_signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def sentencepiece_json(model: SentencePiece, begin: Sequence[int] = ()) -> bytes:
    """Return the contents of a tokenizer.json equivalent to a SentencePiece model.

    begin: ids that the tokenizer puts before a text.
    """
    names = [piece.text for piece in model.pieces]
    tokenizer_json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added_tokens(model)),
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "post_processor": prefix_post_processor(begin, names),
        "decoder": _decoder(model),
        "model": _bpe(model) if model.bpe else _unigram(model),
    }
    return json.dumps(tokenizer_json, ensure_ascii=False).encode()


def prefix_post_processor(begin: Sequence[int], names: Sequence[str]) -> dict[str, Any] | None:
    """Return the post-processor of tokenizer.json that puts tokens before a text.

    begin: ids of these tokens; None is returned if it is empty. names: the vocabulary by id.
    """
    if not begin:
        return None
    first = [{"SpecialToken": {"id": names[i], "type_id": 0}} for i in begin]
    text = [{"Sequence": {"id": letter, "type_id": n}} for n, letter in enumerate("AB")]
    second = [{"SpecialToken": {"id": names[i], "type_id": 1}} for i in begin]
    return {
        "type": "TemplateProcessing",
        "single": [*first, text[0]],
        "pair": [*first, text[0], *second, text[1]],
        "special_tokens": {
            names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in begin
        },
    }


def _added_tokens(model: SentencePiece) -> Iterable[dict[str, Any]]:
    for i, piece in enumerate(model.pieces):
        if piece.kind in (UNKNOWN, CONTROL):
            yield special_token(i, piece.text)
        elif piece.kind == USER_DEFINED:  # text that is always one piece
            yield special_token(i, piece.text) | {"special": False, "normalized": True}


def _normalizer(model: SentencePiece) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.strips_spaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _decoder(model: SentencePiece) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _bpe(model: SentencePiece) -> dict[str, Any]:
    mergeable = {p.text: p.score for p in model.pieces if p.kind == NORMAL}
    merges = [
        (-score, -cut, text[:cut], text[cut:])
        for text, score in mergeable.items()
        for cut in range(1, len(text))
        if text[:cut] in mergeable and text[cut:] in mergeable
    ]
    merges.sort()
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.unk].text if model.unk >= 0 else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: i for i, piece in enumerate(model.pieces)},
        "merges": [[left, right] for _, _, left, right in merges],
    }


def _unigram(model: SentencePiece) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": model.unk if model.unk >= 0 else None,
        "vocab": [[piece.text, piece.score] for piece in model.pieces],
        "byte_fallback": model.byte_fallback,
    }
