"""Detect the format of a tokenizer file, and test that it loads in a separate process."""

from __future__ import annotations

import codecs
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .tiktoken_file import is_tiktoken, to_tokenizer_json

LARGEST_FILE = 1 << 28  # bytes; the largest published files have about 30 MB
SECONDS = 60  # time limit for loading; the largest files take a few seconds
MEMORY = 8 << 30  # bytes of address space

PROBES = {
    "spaces at the ends": "  a ",
    "runs of spaces": "a   b",
    "tabs": "a\tb\t\tc",
    "line ends": "a\r\nb\rc\n\n\n",
    "capitals": "Ab CD",
    "spaces before punctuation": "a . b , don ' t ( c )",
    "digits": "12 3.5",
    "composed accents": "\u00e9 \u00c5 \ud55c",
    "decomposed accents": "e\u0301 A\u030a \u1112\u1161\u11ab",
    "compatibility characters": "\ufb01 \u2460 \uff76 \u00a0",
    "emoji": "\U0001f600 \U0001f469\u200d\U0001f467",
    "Chinese and Japanese": "\u4e16\u754c \u65e5\u672c\u8a9e",
    "rare scripts": "\U00012000 \u16a0",
    "U+2581": "\u2581 \u2581",
    "U+FFFD": "\ufffd",
    "private and unassigned characters": "\ue000\uffff\U0010ffff\ufeff",
    "control characters": "\x00\x07\x1b\x7f\x85\u2028",
}
"""Kind of text → example; some tokenizers do not restore it exactly."""

# Byte order marks, by which a tokenizer.json may begin.
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# Code that loads and uses a tokenizer, and the script of the process that runs it with limits.
TRY_JSON = """
import tokenizers
described = json.loads(model)
if not isinstance(described, dict) or "model" not in described:
    raise ValueError("no `model` section: give the file that contains the vocabulary")
described.pop("eos", None)
text = json.dumps(described | {"truncation": None, "padding": None})
tokenizer = tokenizers.Tokenizer.from_str(text)
for text in probes:
    tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
"""
TRY_MODEL = """
import sentencepiece
tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
for text in probes:
    tokenizer.decode(tokenizer.encode(text))
for i in range(tokenizer.vocab_size()):
    tokenizer.id_to_piece(i)
"""
CHILD = """
import contextlib, json, resource, sys
for limit, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_CORE, 0)):
    hard = resource.getrlimit(limit)[1]
    with contextlib.suppress(OSError, ValueError):  # not every system has every limit
        resource.setrlimit(limit, (most if hard < 0 else min(most, hard), hard))
model, probes = sys.stdin.buffer.read(), {probes!r}
{code}
"""


@dataclass(frozen=True)
class TokenizerFile:
    """Contents of a tokenizer file.

    model: a tokenizer.json if `is_json`, else a SentencePiece model. usual_eos: text of the EOS
    piece according to the tokenizer_config.json beside the file, or None.
    """

    model: bytes
    is_json: bool
    usual_eos: str | None


def read_tokenizer(path: Path) -> TokenizerFile:
    """Read a tokenizer file, after testing in a separate process that it can be loaded and used.

    A tiktoken file is converted to a tokenizer.json. Raises OSError if the file cannot be read,
    ValueError if it is no usable tokenizer.
    """
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"a file of {size:,} bytes is too large for a tokenizer")
    model = path.read_bytes()
    if is_tiktoken(model):
        model = to_tokenizer_json(model)
    is_json = model.startswith(MARKS) or model.lstrip()[:1] == b"{"
    _survived(model, is_json)
    return TokenizerFile(model, is_json, _configured_eos(path))


def _configured_eos(path: Path) -> str | None:
    """Return the EOS piece that the tokenizer_config.json beside a file names."""
    try:
        config = json.loads((path.parent / "tokenizer_config.json").read_bytes())
        piece = config.get("eos_token")
        piece = piece.get("content") if isinstance(piece, dict) else piece
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return piece if isinstance(piece, str) else None


@lru_cache(maxsize=8)
def _survived(model: bytes, is_json: bool) -> None:
    """Load and use a model in a separate process. Raises ValueError if that fails.

    On damaged or hostile files the libraries may abort or allocate without bound.
    """
    code, what = (TRY_JSON, "tokenizer.json") if is_json else (TRY_MODEL, "SentencePiece model")
    child = CHILD.format(memory=MEMORY, probes=[*PROBES.values()], code=code)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TOKENIZERS_PARALLELISM": "false",  # threads' stacks count towards the limit
    }
    command = [sys.executable, "-P", "-c", child]
    try:
        done = subprocess.run(
            command, input=model, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"not a usable {what}: loading takes over {SECONDS} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ValueError(f"not a usable {what}: its library crashed ({name})")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        why = re.sub(r"^[\w.]*(Exception|Error): ", "", lines[-1])[:300]
        if lines[-1].startswith(("ModuleNotFoundError", "ImportError")):
            return  # the loader reports missing packages
        raise ValueError(f"not a {what}, or a damaged one ({why})")
