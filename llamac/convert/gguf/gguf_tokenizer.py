"""Convert tokenizers between GGUF metadata and tokenizer.json.

GGUF stores a SentencePiece model as pieces, scores and types, and byte-level BPE as pieces, merges
and the name of a pre-tokenizer, `tokenizer.ggml.pre`. llama.cpp defines the pre-tokenizers in
llama-vocab.cpp; `SPLITS` has those of the supported families.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamac.convert.errors import ConversionError
from llamac.convert.hf.sentencepiece_json import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    ScoredPiece,
    SentencePiece,
    parse,
    prefix_post_processor,
    sentencepiece_json,
)
from llamac.convert.hf.tokenizer_export import is_sentencepiece
from llamac.convert.untrusted_files import json_object
from llamac.runtime.tokenizers.tiktoken_file import SPLIT, special_token
from llamac.runtime.tokenizers.tokenizer import Tokenizer

KEY = "tokenizer.ggml."  # prefix of the tokenizer's keys in the metadata
QWEN = SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")  # as Llama 3's, with one digit per token
BY_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _split(regex: str) -> dict[str, Any]:
    pattern = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}
    return _sequence(pattern | {"invert": False}, BY_LEVEL | {"use_regex": False})


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


GPT2 = BY_LEVEL | {"use_regex": True}
SPLITS: dict[str, dict[str, Any]] = {
    "gpt-2": GPT2,
    "llama-bpe": _split(SPLIT),
    "qwen2": _split(QWEN),
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, GPT2),
}
"""Pre-tokenizers in the form of tokenizer.json, by llama.cpp's name."""

SAME = {"default": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}
"""Other names of pre-tokenizers in `SPLITS`."""


def tokenizer_from(metadata: Mapping[str, Any], where: str) -> dict[str, bytes]:
    """Convert a GGUF file's tokenizer to tokenizer.json and tokenizer_config.json.

    Returns their contents by file name, or {} if the metadata has no tokenizer.
    metadata: key-value pairs of the GGUF file. where: its path, for messages.
    Raises ConversionError for a tokenizer that is incomplete or of an unsupported kind.
    """
    kind = metadata.get(f"{KEY}model")
    if kind in (None, "no_vocab", "none"):
        return {}
    names, types = metadata.get(f"{KEY}tokens"), metadata.get(f"{KEY}token_type")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConversionError(f"{where} has a tokenizer without its pieces")
    types = [NORMAL] * len(names) if types is None else types
    if not isinstance(types, list) or len(types) != len(names):
        raise ConversionError(
            f"{where} has {len(names):,} pieces, but another number of piece types"
        )
    begin = gguf_prefix_ids(metadata)
    if any(value >= len(names) for value in begin):
        raise ConversionError(f"{where} has BOS = {begin[0]:,}, and {len(names):,} pieces")
    if kind == "llama":
        scores = metadata.get(f"{KEY}scores")
        scores = scores if isinstance(scores, list) else []
        if len(scores) != len(names) or not all(type(value) is float for value in scores):
            raise ConversionError(f"{where} has a tokenizer without scores")
        pieces = [ScoredPiece(*value) for value in zip(names, scores, types, strict=True)]
        model = SentencePiece(
            pieces,
            bpe=True,
            byte_fallback=BYTE in types,
            dummy_prefix=bool(metadata.get(f"{KEY}add_space_prefix", True)),
        )
        tokenizer_json = sentencepiece_json(model, begin)
    elif kind == "gpt2":
        tokenizer_json = _bpe_json(metadata, names, types, begin, where)
    else:
        raise ConversionError(
            f"{where} has a tokenizer of kind {kind!r}; supported: llama (SentencePiece) and gpt2 "
            "(byte-level BPE)"
        )
    return {"tokenizer.json": tokenizer_json, "tokenizer_config.json": _config(metadata, names)}


def gguf_prefix_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that a GGUF file's tokenizer puts before a text: (BOS,) or ().

    metadata: key-value pairs of the file. Without `add_bos_token` among them, llama.cpp adds BOS
    for SentencePiece only.
    """
    bos = metadata.get(f"{KEY}bos_token_id")
    adds = metadata.get(f"{KEY}add_bos_token", metadata.get(f"{KEY}model") == "llama")
    return (bos,) if adds and type(bos) is int and bos >= 0 else ()


def _config(metadata: Mapping[str, Any], names: Sequence[str]) -> bytes:
    config: dict[str, Any] = {
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = metadata.get(f"{KEY}{name}_token_id")
        if type(token) is int and 0 <= token < len(names):
            config[f"{key}_token"] = names[token]
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _bpe_json(
    metadata: Mapping[str, Any],
    names: Sequence[str],
    types: Sequence[int],
    begin: Sequence[int],
    where: str,
) -> bytes:
    pre = str(metadata.get(f"{KEY}pre", "default"))
    split = SPLITS.get(SAME.get(pre, pre))
    if split is None:
        raise ConversionError(
            f"{where} has the unsupported pre-tokenizer {pre!r} (tokenizer.ggml.pre); supported: "
            f"{', '.join(SPLITS)}; import the model from Hugging Face's format"
        )
    merges = metadata.get(f"{KEY}merges")
    if not isinstance(merges, list) or not all(isinstance(m, str) and " " in m for m in merges):
        raise ConversionError(f"{where} has a tokenizer without merges")
    added = [
        special_token(i, names[i]) | {"special": types[i] != USER_DEFINED}
        for i in range(len(names))
        if types[i] in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    tokenizer_json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": split,
        "post_processor": prefix_post_processor(begin, names),
        "decoder": BY_LEVEL | {"use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": [merge.split(" ", 1) for merge in merges],
            "ignore_merges": SAME.get(pre, pre) == "llama-bpe",
        },
    }
    return json.dumps(tokenizer_json, ensure_ascii=False).encode()


def metadata_of(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """Return a tokenizer as GGUF metadata, padded to a vocabulary of `size` tokens.

    The ids of BOS and of the tokens that end a text are left to the caller.
    Raises ConversionError for a tokenizer that llama.cpp does not support.
    """
    if is_sentencepiece(tokenizer):
        model = parse(tokenizer.model)
        if not model.bpe or model.strips_spaces or model.charsmap:
            raise ConversionError(
                "llama.cpp supports SentencePiece BPE without normalisation only, and this "
                "tokenizer is another kind"
            )
        pieces = [*model.pieces]
        pieces += [ScoredPiece(f"[PAD{i}]", -1e4, UNUSED) for i in range(len(pieces), size)]
        metadata: dict[str, Any] = {
            "model": "llama",
            "pre": "default",
            "tokens": [piece.text for piece in pieces],
            "scores": [piece.score for piece in pieces],
            "token_type": [piece.kind for piece in pieces],
            "add_space_prefix": model.dummy_prefix,
            "unknown_token_id": model.unk if model.unk >= 0 else None,
        }
    else:
        metadata = _bpe_metadata(json_object(tokenizer.model, "the tokenizer"), size)
    return {f"{KEY}{key}": value for key, value in metadata.items() if value is not None}


def _bpe_metadata(tokenizer_json: Mapping[str, Any], size: int) -> dict[str, Any]:
    model = tokenizer_json["model"]
    pre = next(
        (p for p, s in SPLITS.items() if _same_split(tokenizer_json["pre_tokenizer"], s)), None
    )
    if model.get("type") != "BPE" or pre is None:
        return _spm_metadata(tokenizer_json, size)
    names: dict[int, str] = {i: name for name, i in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for token in tokenizer_json.get("added_tokens") or ():
        names[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": [names.get(i, f"[PAD{i}]") for i in range(size)],
        "token_type": [types.get(i, UNUSED) for i in range(size)],
        "merges": merges,
        "add_space_prefix": False,
    }


def _spm_metadata(tokenizer_json: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the GGUF metadata of a tokenizer.json converted from SentencePiece's BPE.

    Scores are negative merge ranks; among equal scores, SentencePiece merges the leftmost pair.
    """
    model, normalizer = tokenizer_json["model"], tokenizer_json.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    kinds = [step.get("type") for step in steps]
    known = model.get("type") == "BPE" and not tokenizer_json.get("pre_tokenizer")
    if not known or not {"Replace"} <= {*kinds} <= {"Prepend", "Replace"}:
        raise ConversionError(
            "llama.cpp has no pre-tokenizer that splits text as this tokenizer.json does; it has "
            f"{', '.join(SPLITS)} and SentencePiece's BPE"
        )
    names: dict[int, str] = {i: name for name, i in model["vocab"].items()}
    types = {
        i: BYTE if len(name) == 6 and name.startswith("<0x") else NORMAL
        for i, name in names.items()
    }
    for token in tokenizer_json.get("added_tokens") or ():
        names[token["id"]] = token["content"]
        unknown = token["content"] == model.get("unk_token")
        types[token["id"]] = UNKNOWN if unknown else CONTROL if token["special"] else USER_DEFINED
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    unk = next((i for i, kind in types.items() if kind == UNKNOWN), None)
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [names.get(i, f"[PAD{i}]") for i in range(size)],
        "scores": [-float(ranks.get(names.get(i, ""), len(ranks))) for i in range(size)],
        "token_type": [types.get(i, UNUSED) for i in range(size)],
        "add_space_prefix": "Prepend" in kinds,
        "unknown_token_id": unk,
    }


def _same_split(a: Any, b: Any) -> bool:
    """Return whether two pre-tokenizers split text equally, ignoring offset options."""
    return _normalized(a) == _normalized(b)


def _normalized(value: Any) -> Any:
    if isinstance(value, dict):
        settings = {key: _normalized(item) for key, item in value.items() if key != "trim_offsets"}
        if settings.get("type") == "ByteLevel":
            settings.setdefault("use_regex", True)
        return settings
    return [_normalized(item) for item in value] if isinstance(value, list) else value
