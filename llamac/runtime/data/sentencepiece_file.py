"""The bytes of a SentencePiece model: a check that all of it is there, and the choice of its EOS.

A model is a protobuf (sentencepiece_model.proto): field 1, repeated, is a piece (1 text, 2 score,
3 type), field 2 the trainer's settings (47 the text of the EOS piece), field 3 the normaliser's.
"""

from __future__ import annotations

from collections.abc import Iterator

PIECES, TRAINER, NORMALIZER = 1, 2, 3
VARINT, BYTES = 0, 2
FIXED = {1: 8, 5: 4}  # bytes of a value of these wire types
KIND_IS_CONTROL = b"\x18\x03"  # field 3 of a piece: its type is CONTROL
EOS_PIECE = 47


def check_whole(model: bytes) -> None:
    """Raises ValueError unless `model` is a protobuf with pieces and both settings, which come
    last: without them SentencePiece would take the first half of a model for a whole one."""
    if not {PIECES, TRAINER, NORMALIZER} <= {number for number, *_ in _fields(model)}:
        raise ValueError("it is cut off")


def ended_by(model: bytes, token: int, piece: str) -> bytes:
    """The same model with piece number `token` as its EOS: a control piece, which text never
    yields and which decodes to nothing."""
    out, number = [], 0
    for field, value, whole in _fields(model):
        if field == PIECES:
            if number == token:
                whole = _field(PIECES, value + KIND_IS_CONTROL)
            number += 1
        out.append(whole)
    # Protobuf merges a field that comes twice: the last EOS piece counts.
    return b"".join(out) + _field(TRAINER, _field(EOS_PIECE, piece.encode()))


def _field(number: int, value: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(value)) + value


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, value, all of it with number and length) of each field; ValueError if cut off."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _varint(data, at)
        wire, start = key & 7, at
        if wire == VARINT:
            _, at = _varint(data, at)
        elif wire == BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif wire in FIXED:
            at += FIXED[wire]
        else:
            raise ValueError("it is no protobuf")
        if at > len(data):
            raise ValueError("it is cut off")
        yield key >> 3, data[start:at], data[begin:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("it is cut off")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
