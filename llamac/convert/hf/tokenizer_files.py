"""Tokenizer files of a Hugging Face directory: those kept, and their BOS settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.typed_table import Table, TokenId, checked
from llamac.runtime.tokenizers.chat_template import CHAT_TEMPLATE

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


class NamedTemplate(Table):
    """One of several chat templates."""

    name: str
    template: str


class TokenizerConfig(Table):
    """The keys of tokenizer_config.json that an import reads."""

    add_bos_token: bool | None = None
    chat_template: str | list[NamedTemplate] | None = None


def chat_template_of(directory: Path, tokenizer: Mapping[str, bytes]) -> str | None:
    """Return the chat template: a file of its own, or an entry of tokenizer_config.json.

    Raises ConversionError.
    """
    if (directory / CHAT_TEMPLATE).exists():
        path = untrusted_files.inside(directory, CHAT_TEMPLATE)
        return path.read_bytes().decode(errors="replace")
    found = _configured(directory, tokenizer).chat_template
    if isinstance(found, list):
        return {one.name: one.template for one in found}.get("default")
    return found


def begins_with(
    directory: Path, tokenizer: Mapping[str, bytes], bos: int | None
) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts before a text. bos: bos_token_id of config.json.

    Raises ConversionError.
    """
    first = () if bos is None else (bos,)
    add_bos = _configured(directory, tokenizer).add_bos_token
    if add_bos is not None:
        return first if add_bos else ()
    if "tokenizer.json" in tokenizer:
        where = str(directory / "tokenizer.json")
        described = untrusted_files.json_object(tokenizer["tokenizer.json"], where)
        return tuple(_template_start(described.get("post_processor"), where))
    return first if "tokenizer.model" in tokenizer else ()


def _configured(directory: Path, tokenizer: Mapping[str, bytes]) -> TokenizerConfig:
    name = "tokenizer_config.json"
    if name not in tokenizer:
        return TokenizerConfig()
    where = str(directory / name)
    return checked(TokenizerConfig, untrusted_files.json_object(tokenizer[name], where), where)


class SpecialTokens(Table):
    """The ids of a special token in a post-processor's template."""

    ids: list[TokenId]


class PostProcessor(Table):
    """The part of a tokenizer's post-processor that adds tokens before a text."""

    type: str
    processors: list[PostProcessor] = Field(default_factory=list)
    single: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    special_tokens: dict[str, SpecialTokens] = Field(default_factory=dict)

    def start(self) -> list[int]:
        """Return the ids of the special tokens before a single text."""
        if self.type == "Sequence":
            return [i for one in self.processors for i in one.start()]
        ids: list[int] = []
        for part in self.single if self.type == "TemplateProcessing" else ():
            if "SpecialToken" not in part:
                break
            ids += self.special_tokens[part["SpecialToken"]["id"]].ids
        return ids


def _template_start(processor: Any, where: str) -> list[int]:
    if processor is None:
        return []
    try:
        return checked(PostProcessor, processor, f"{where}: post_processor").start()
    except (KeyError, TypeError) as error:
        raise ConversionError(f"{where}: its post_processor is damaged: {error!r}") from error
