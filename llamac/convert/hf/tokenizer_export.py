"""The tokenizer's files in Hugging Face's form, for a run or an import."""

from __future__ import annotations

import json
from typing import Any

from llamac.convert import untrusted_files
from llamac.convert.hf.sentencepiece_json import begins, parse, sentencepiece_json
from llamac.convert.hf.tokenizer_files import KEPT
from llamac.runtime.checkpoint.model_directory import ModelDirectory
from llamac.runtime.tokenizers.tiktoken_file import special_token
from llamac.runtime.tokenizers.tokenizer import Tokenizer


def hf_files(opened: ModelDirectory) -> dict[str, bytes]:
    """Return the tokenizer's files by name; none where there is no tokenizer.

    An import's files are its source's, unchanged, plus tokenizer.json and tokenizer_config.json if
    missing.
    """
    tokenizer = opened.tokenizer
    if tokenizer is None:
        return {}
    found: dict[str, bytes] = {}
    if opened.imported:
        paths = (opened.directory / name for name in KEPT)
        found = {path.name: path.read_bytes() for path in paths if path.is_file()}
    elif is_sentencepiece(tokenizer):
        found["tokenizer.model"] = tokenizer.model
    if "tokenizer.json" not in found:
        found["tokenizer.json"] = tokenizer_json(tokenizer, opened.begin)
    if "tokenizer_config.json" not in found:
        found["tokenizer_config.json"] = _config(tokenizer, opened)
    return found


def is_sentencepiece(tokenizer: Tokenizer) -> bool:
    return type(tokenizer) is Tokenizer


def tokenizer_json(tokenizer: Tokenizer, begin: tuple[int, ...]) -> bytes:
    """Return a tokenizer.json that gives the tokenizer's ids, and puts `begin` before a text."""
    if is_sentencepiece(tokenizer):
        return sentencepiece_json(parse(tokenizer.model), begin)
    described = untrusted_files.json_object(tokenizer.model, "the tokenizer")
    described.pop("eos", None)
    names = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    added = [one for one in described.get("added_tokens") or () if one["id"] != tokenizer.eos]
    if tokenizer.eos >= 0:
        added.append(special_token(tokenizer.eos, names[tokenizer.eos]))
    described["added_tokens"] = sorted(added, key=lambda one: one["id"])
    described["post_processor"] = begins(begin, names)
    return json.dumps(described, ensure_ascii=False).encode()


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
