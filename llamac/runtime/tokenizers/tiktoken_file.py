"""Convert Llama 3's tokenizer.model, a tiktoken file of 128,000 ranks, to a tokenizer.json.

Such a file has a line `base64-of-bytes rank` for each token and nothing else. The pattern that
splits text and the special tokens are in Meta's code (llama3/llama/tokenizer.py), so only files of
Llama 3's size are supported: others split text differently.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

RANKS = 128_000  # number of ranks of Llama 3 to 3.3
# Regular expression that splits text into words before BPE.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Names of special tokens by their number after the ranks; the others are reserved.
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id"}
NAMED |= {9: "eot_id"}
SPECIAL = 256  # number of special tokens
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+")


def is_tiktoken(model: bytes) -> bool:
    """Return whether the bytes look like a tiktoken file: the first line is a token and a rank."""
    return bool(_LINE.fullmatch(model[:4096].split(b"\n", 1)[0].rstrip(b"\r")))


def to_tokenizer_json(model: bytes) -> bytes:
    """Return the contents of a tiktoken file as a tokenizer.json.

    Raises ValueError if it is damaged, or has another size than Llama 3's.
    """
    ranks = _ranks(model)
    if len(ranks) != RANKS or sorted(ranks.values()) != list(range(RANKS)):
        raise ValueError(
            f"a tiktoken file of {len(ranks):,} ranks, which does not define how text is split or "
            f"which token ends a document (only Llama 3's, of {RANKS:,}, is known): give the "
            "tokenizer.json that is published beside it"
        )
    letters = _byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (rank, [spelled[token[:cut]], spelled[token[cut:]]])
        for token, rank in ranks.items()
        for cut in sorted(
            (cut for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks),
            key=lambda cut: (ranks[token[:cut]], ranks[token[cut:]]),
        )
    ]
    merges.sort(key=lambda merge: merge[0])
    by_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    by_level |= {"use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    described: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [special_token(RANKS + i, name) for i, name in enumerate(_specials())],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, by_level]},
        "post_processor": None,
        "decoder": by_level,
        "model": {
            "type": "BPE",
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": [pair for _, pair in merges],
            # As in tiktoken, a word in the vocabulary is encoded as that token.
            "ignore_merges": True,
        },
    }
    return json.dumps(described).encode()


def special_token(token: int, content: str) -> dict[str, Any]:
    """Return an entry of tokenizer.json's `added_tokens` for a special token.

    token: its id. content: its text.
    """
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, **flags, "special": True}


def _specials() -> list[str]:
    reserved = iter(range(SPECIAL))
    return [
        f"<|{NAMED[i]}|>" if i in NAMED else f"<|reserved_special_token_{next(reserved)}|>"
        for i in range(SPECIAL)
    ]


def _ranks(model: bytes) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(model.splitlines(), 1):
        if not line:
            continue
        if not _LINE.fullmatch(line):
            raise ValueError(f"line {number} of this tiktoken file is damaged")
        token, _, rank = line.partition(b" ")
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _byte_letters() -> list[str]:
    """Return the printable letter that byte-level BPE writes for each byte (GPT-2, encoder.py)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]
