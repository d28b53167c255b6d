"""Any file that holds a tokenizer: which format it is in, and whether its library survives it."""

from __future__ import annotations

import codecs
import json
import os
import re
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from .tiktoken_file import as_tokenizer_json, is_tiktoken
from .tokenizer import PROBES, Tokenizer, TokenizerError

LARGEST_FILE = 1 << 28  # bytes; the largest published ones have some 30 MB
SECONDS = 60  # for loading a file; the largest take a few
MEMORY = 8 << 30  # bytes of address space
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

TRY_JSON = """
import tokenizers
described = json.loads(model)
if not isinstance(described, dict) or "model" not in described:
    raise ValueError("it holds no model: the file with the vocabulary is wanted")
described.pop("eos", None)
text = json.dumps(described | {"truncation": None, "padding": None})
tokenizer = tokenizers.Tokenizer.from_str(text)
for text in probes:
    tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
"""
TRY_SENTENCEPIECE = """
import sentencepiece
tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
for text in probes:
    tokenizer.decode(tokenizer.encode(text))
for i in range(tokenizer.vocab_size()):
    tokenizer.id_to_piece(i)
"""
CHILD = """
import json, resource, sys
for limit, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
model, probes = sys.stdin.buffer.read(), {probes!r}
{code}
"""


def load(path: str | Path, eos: int | str | None) -> Tokenizer:
    """As Tokenizer.load."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise TokenizerError(f"its {path.stat().st_size:,} bytes are too many for a tokenizer")
        return _of(path.read_bytes(), eos, _configured_eos(path))
    except OSError as error:
        raise TokenizerError(
            f"cannot read the tokenizer {path}: {error.strerror}; tokenizer.path must name a "
            "SentencePiece .model file or a tokenizer.json"
        ) from error
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _of(model: bytes, eos: int | str | None, usual: str | None) -> Tokenizer:
    from .tokenizer_json import JsonTokenizer

    if is_tiktoken(model):
        try:
            model = as_tokenizer_json(model)
        except ValueError as error:
            raise TokenizerError(str(error)) from error
    if model.startswith(MARKS) or model.lstrip()[:1] == b"{":
        _survived(TRY_JSON, model, "tokenizer.json")
        return JsonTokenizer(model, eos, usual)
    _survived(TRY_SENTENCEPIECE, model, "SentencePiece model")
    return Tokenizer(model, eos, usual)


def _configured_eos(path: Path) -> str | None:
    """The EOS piece that the tokenizer_config.json beside a file names."""
    try:
        config = json.loads((path.parent / "tokenizer_config.json").read_bytes())
        piece = config.get("eos_token")
        piece = piece.get("content") if isinstance(piece, dict) else piece
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return piece if isinstance(piece, str) else None


@lru_cache(maxsize=8)
def _survived(code: str, model: bytes, what: str) -> None:
    """Loads a model and uses it in a process of its own: the libraries take some damaged or hostile
    files for a reason to abort, or to allocate without end. Raises TokenizerError."""
    child = CHILD.format(memory=MEMORY, probes=[*PROBES.values()], code=code)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TOKENIZERS_PARALLELISM": "false",  # threads' stacks would count as memory
    }
    command = [sys.executable, "-P", "-c", child]
    try:
        done = subprocess.run(
            command, input=model, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TokenizerError(f"not a usable {what}: it takes over {SECONDS} s to load") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise TokenizerError(f"not a usable {what}: its library dies of it ({name})")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        why = re.sub(r"^[\w.]*(Exception|Error): ", "", lines[-1])[:300]
        if lines[-1].startswith(("ModuleNotFoundError", "ImportError")):
            return  # the loading itself says what to install
        raise TokenizerError(f"not a {what}, or a damaged one ({why})")
