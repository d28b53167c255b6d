"""Tokenizer files of a Hugging Face directory: which are kept, and what they say of BOS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.runtime.checkpoint.model_directory import CHAT_TEMPLATE

KEPT = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def passed_through(directory: Path) -> dict[str, bytes]:
    """Return the tokenizer's files as they are, by name. Raises ConversionError."""
    found = {}
    for name in KEPT:
        if (directory / name).exists():
            path = untrusted_files.inside(directory, name)
            if path.stat().st_size > untrusted_files.LARGEST_JSON:
                raise ConversionError(f"{path} is too large for a tokenizer's file")
            found[name] = path.read_bytes()
    return found


def chat_template_of(directory: Path, tokenizer: Mapping[str, bytes]) -> str | None:
    """Return the chat template: a file of its own, or an entry of tokenizer_config.json."""
    if (directory / CHAT_TEMPLATE).exists():
        path = untrusted_files.inside(directory, CHAT_TEMPLATE)
        return path.read_bytes().decode(errors="replace")
    found = _configured(tokenizer).get("chat_template")
    if isinstance(found, list):  # several by name
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def begins_with(tokenizer: Mapping[str, bytes], bos: Any) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts before a text. bos: bos_token_id of config.json."""
    first = (bos,) if type(bos) is int and bos >= 0 else ()
    asked = _configured(tokenizer).get("add_bos_token")
    if isinstance(asked, bool):
        return first if asked else ()
    if "tokenizer.json" in tokenizer:
        described = untrusted_files.json_object(tokenizer["tokenizer.json"], "tokenizer.json")
        return tuple(_template_start(described.get("post_processor")))
    return first if "tokenizer.model" in tokenizer else ()


def _configured(tokenizer: Mapping[str, bytes]) -> dict[str, Any]:
    name = "tokenizer_config.json"
    return untrusted_files.json_object(tokenizer[name], name) if name in tokenizer else {}


def _template_start(processor: Any) -> list[int]:
    """Return the ids of the special tokens that a post-processor puts before a single text."""
    if not isinstance(processor, dict):
        return []
    if processor.get("type") == "Sequence":
        return [i for one in processor.get("processors", []) for i in _template_start(one)]
    if processor.get("type") != "TemplateProcessing":
        return []
    ids: list[int] = []
    for part in processor.get("single", []):
        if "SpecialToken" not in part:
            break
        ids += processor["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return ids
