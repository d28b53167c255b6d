"""Read the tokenizer files of a Hugging Face directory: contents, chat template and BOS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.typed_table import Table, TokenId, validate_table
from llamac.runtime.tokenizers.chat_template import CHAT_TEMPLATE

TOKENIZER_FILE_NAMES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Tokenizer files of a Hugging Face directory that an import copies."""


def read_tokenizer_files(directory: Path) -> dict[str, bytes]:
    """Return the contents of those `TOKENIZER_FILE_NAMES` that a directory has, by name.

    Raises ConversionError for a file of more than 64 MiB or one that leads out of the directory.
    """
    contents = {}
    for name in TOKENIZER_FILE_NAMES:
        if (directory / name).exists():
            path = untrusted_files.path_inside(directory, name)
            if path.stat().st_size > untrusted_files.MAX_JSON_BYTES:
                raise ConversionError(f"{path} is too large for a tokenizer's file")
            contents[name] = path.read_bytes()
    return contents


class NamedTemplate(Table):
    """One of several chat templates in tokenizer_config.json. template: Jinja text."""

    name: str
    template: str


class TokenizerConfig(Table):
    """Keys of tokenizer_config.json that an import reads; None if absent.

    add_bos_token: whether the tokenizer puts BOS before a text. chat_template: Jinja text, or
    several with names.
    """

    add_bos_token: bool | None = None
    chat_template: str | list[NamedTemplate] | None = None


def chat_template_of(directory: Path, tokenizer: Mapping[str, bytes]) -> str | None:
    """Return the chat template of a Hugging Face directory as Jinja text; None if there is none.

    It is chat_template.jinja, else the `chat_template` of tokenizer_config.json (of several, the
    one named "default"). tokenizer: the tokenizer files by name.
    Raises ConversionError if a file leads out of the directory or tokenizer_config.json is invalid.
    """
    if (directory / CHAT_TEMPLATE).exists():
        path = untrusted_files.path_inside(directory, CHAT_TEMPLATE)
        return path.read_bytes().decode(errors="replace")
    template = _tokenizer_config(directory, tokenizer).chat_template
    if isinstance(template, list):
        return {named.name: named.template for named in template}.get("default")
    return template


def hf_prefix_ids(
    directory: Path, tokenizer: Mapping[str, bytes], bos: int | None
) -> tuple[int, ...]:
    """Return the ids that the tokenizer of a Hugging Face directory puts before a text.

    If tokenizer_config.json has `add_bos_token`, they are (bos,) or () accordingly; else those of
    tokenizer.json's post-processor; else, for tokenizer.model alone, (bos,).
    tokenizer: the tokenizer files by name. bos: bos_token_id of config.json.
    Raises ConversionError if tokenizer_config.json or the post-processor of tokenizer.json is
    invalid.
    """
    first = () if bos is None else (bos,)
    add_bos = _tokenizer_config(directory, tokenizer).add_bos_token
    if add_bos is not None:
        return first if add_bos else ()
    if "tokenizer.json" in tokenizer:
        where = str(directory / "tokenizer.json")
        table = untrusted_files.json_object(tokenizer["tokenizer.json"], where)
        return tuple(_template_start(table.get("post_processor"), where))
    return first if "tokenizer.model" in tokenizer else ()


def _tokenizer_config(directory: Path, tokenizer: Mapping[str, bytes]) -> TokenizerConfig:
    name = "tokenizer_config.json"
    if name not in tokenizer:
        return TokenizerConfig()
    where = str(directory / name)
    return validate_table(
        TokenizerConfig, untrusted_files.json_object(tokenizer[name], where), where
    )


class SpecialTokens(Table):
    """Ids of a special token in a post-processor's template."""

    ids: list[TokenId]


class PostProcessor(Table):
    """A post-processor of tokenizer.json, as far as it adds tokens before a text.

    processors: steps of a "Sequence". single: parts of the template for one text, each under its
    kind, such as "SpecialToken". special_tokens: ids by the name that the template uses.
    """

    type: str
    processors: list[PostProcessor] = Field(default_factory=list)
    single: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    special_tokens: dict[str, SpecialTokens] = Field(default_factory=dict)

    def start(self) -> list[int]:
        """Return the ids of the special tokens before a single text.

        Raises KeyError or TypeError if the template is damaged.
        """
        if self.type == "Sequence":
            return [i for processor in self.processors for i in processor.start()]
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
        return validate_table(PostProcessor, processor, f"{where}: post_processor").start()
    except (KeyError, TypeError) as error:
        raise ConversionError(f"{where}: its post_processor is damaged: {error!r}") from error
