"""Read tokens of Megatron-LM and datatrove, decoded to text, one document at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from llamac.data.document import Document
from llamac.runtime.data.sources.indexed_tokens import token_documents
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.runtime.errors import SourceError
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.runtime.tokenizers.tokenizer import Tokenizer, TokenizerError
from llamac.spec.data import Source


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield the documents of a .ds file, or of an .idx file with its .bin file beside it.

    A document's line is its number in the file; its `tokens` are those of the file.
    """
    tokenizer = source_tokenizer(source)
    documents = token_documents(path, tokenizer.eos, tokenizer.vocab_size, skipped)
    for number, tokens in documents:
        text = tokenizer.decode(tokens)
        if text.strip():
            yield Document(text, path, number, tokens=tokens.tolist())
        else:
            skipped.add("empty", f"{path}:{number}")


def source_tokenizer(source: Source) -> Tokenizer:
    """Load the tokenizer that the source's files were tokenised with.

    Raises SourceError if its file is missing or invalid.
    """
    return _load(str(source.tokenizer))


@lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    try:
        return load_tokenizer_file(path)
    except TokenizerError as error:
        raise SourceError(str(error)) from error
