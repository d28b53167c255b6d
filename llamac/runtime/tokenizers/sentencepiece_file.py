"""Check the bytes of a SentencePiece model for completeness, and set its BOS and EOS.

A model is a protobuf (sentencepiece_model.proto): field 1, repeated, is a piece (1 text, 2 score,
3 type), field 2 the trainer's settings (46 and 47 the texts of the BOS and EOS pieces), field 3 the
normaliser's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Numbers of fields of a model, wire types, and fields of the trainer's settings.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
VARINT, BYTES = 0, 2
FIXED = {1: 8, 5: 4}  # bytes of a value of these wire types
KIND_IS_CONTROL = b"\x18\x03"  # field 3 of a piece: its type is CONTROL
BOS_PIECE, EOS_PIECE = 46, 47


def check_complete(model: bytes) -> None:
    """Raise ValueError unless `model` has pieces and the trainer's and normaliser's settings.

    model: contents of a SentencePiece file, a protobuf.

    The settings come last, and SentencePiece itself accepts a model that is truncated before them.
    """
    if not {PIECES, TRAINER, NORMALIZER} <= {number for number, *_ in fields(model)}:
        raise ValueError("the file is truncated")


def with_eos(model: bytes, token: int, piece: str) -> bytes:
    """Return a copy of a SentencePiece model whose EOS has the id `token` and the text `piece`.

    It becomes a control piece, to which no text is encoded and which decodes to nothing.
    """
    out, number = [], 0
    for field, value, whole in fields(model):
        if field == PIECES:
            if number == token:
                whole = _field(PIECES, value + KIND_IS_CONTROL)
            number += 1
        out.append(whole)
    # Protobuf merges repeated fields, so an EOS piece appended here takes effect.
    return b"".join(out) + _field(TRAINER, _field(EOS_PIECE, piece.encode()))


def with_bos(model: bytes, piece: str) -> bytes:
    """Return a copy of a SentencePiece model whose BOS is the control piece with text `piece`."""
    return model + _field(TRAINER, _field(BOS_PIECE, piece.encode()))


def _field(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(value)) + value


def fields(data: bytes) -> Iterator[tuple[int, Any, bytes]]:
    """Yield (field number, value, bytes of the whole field) of a protobuf message.

    The value is an int for varints, else bytes. Raises ValueError if the data is truncated or not a
    protobuf.
    """
    at = 0
    while at < len(data):
        begin, varint = at, 0
        key, at = _varint(data, at)
        wire, start = key & 7, at
        if wire == VARINT:
            varint, at = _varint(data, at)
        elif wire == BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif wire in FIXED:
            at += FIXED[wire]
        else:
            raise ValueError("not a protobuf")
        if at > len(data):
            raise ValueError("the file is truncated")
        yield key >> 3, varint if wire == VARINT else data[start:at], data[begin:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, end offset) of the varint at `at`."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("the file is truncated")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
