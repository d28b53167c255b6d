"""Tokenizer files in Hugging Face's format, for a run or an import."""

from __future__ import annotations

import json
from typing import Any

from llamac.convert import untrusted_files
from llamac.convert.hf.sentencepiece_json import parse, prefix_post_processor, sentencepiece_json
from llamac.convert.hf.tokenizer_files import TOKENIZER_FILE_NAMES
from llamac.runtime.checkpoint.model_directory import ModelDirectory
from llamac.runtime.tokenizers.tiktoken_file import special_token
from llamac.runtime.tokenizers.tokenizer import Tokenizer


def hf_files(opened: ModelDirectory) -> dict[str, bytes]:
    """Return the tokenizer files of a model in Hugging Face's format: contents by name.

    The result is empty for a model without a tokenizer. An import's own files, or a run's
    SentencePiece model, are returned unchanged; tokenizer.json and tokenizer_config.json are added
    if missing. Raises ConversionError if there is no equivalent tokenizer.json.
    """
    tokenizer = opened.tokenizer
    if tokenizer is None:
        return {}
    files: dict[str, bytes] = {}
    if opened.imported:
        paths = (opened.directory / name for name in TOKENIZER_FILE_NAMES)
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    elif is_sentencepiece(tokenizer):
        files["tokenizer.model"] = tokenizer.model
    if "tokenizer.json" not in files:
        files["tokenizer.json"] = tokenizer_json(tokenizer, opened.begin)
    if "tokenizer_config.json" not in files:
        files["tokenizer_config.json"] = _config(tokenizer, opened)
    return files


def is_sentencepiece(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is a SentencePiece model, not a JsonTokenizer."""
    return type(tokenizer) is Tokenizer


def tokenizer_json(tokenizer: Tokenizer, begin: tuple[int, ...]) -> bytes:
    """Return the contents of a tokenizer.json equivalent to `tokenizer`.

    begin: ids that it puts before a text. Raises ConversionError if there is no equivalent.
    """
    if is_sentencepiece(tokenizer):
        return sentencepiece_json(parse(tokenizer.model), begin)
    table = untrusted_files.json_object(tokenizer.model, "the tokenizer")
    table.pop("eos", None)
    names = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    added = [token for token in table.get("added_tokens") or () if token["id"] != tokenizer.eos]
    if tokenizer.eos >= 0:
        added.append(special_token(tokenizer.eos, names[tokenizer.eos]))
    table["added_tokens"] = sorted(added, key=lambda token: token["id"])
    table["post_processor"] = prefix_post_processor(begin, names)
    return json.dumps(table, ensure_ascii=False).encode()


def _config(tokenizer: Tokenizer, opened: ModelDirectory) -> bytes:
    """Return tokenizer_config.json.

    tokenizer.json already adds BOS, so `add_bos_token` is not set: it would add BOS twice.
    """
    config: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": opened.context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    ends = tokenizer.eos if tokenizer.eos >= 0 else next(iter(opened.end), -1)
    named = {"eos_token": ends, "unk_token": tokenizer.unk}
    config |= {key: tokenizer.piece(i) for key, i in named.items() if i >= 0}
    config |= {"bos_token": opened.bos_text} if opened.bos_text else {}
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
