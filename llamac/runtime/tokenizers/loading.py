"""Load tokenizers of all supported formats."""

from __future__ import annotations

from pathlib import Path

from .tokenizer import Tokenizer, TokenizerError
from .tokenizer_file import read_tokenizer
from .tokenizer_json import JsonTokenizer


def load_tokenizer_file(path: str | Path, eos: int | str | None = None) -> Tokenizer:
    """Load a tokenizer file: SentencePiece, tokenizer.json, or Llama 3's tiktoken file.

    eos: id or text of the piece that ends documents; None for the one in the file or in the
    tokenizer_config.json beside it, or with a usual name. Raises TokenizerError, which names the
    file, if it cannot be read or used, or has no piece `eos` that may end documents.
    """
    try:
        file = read_tokenizer(Path(path))
        if not file.is_json:
            return Tokenizer(file.model, eos, file.usual_eos)
        return JsonTokenizer(file.model, eos, file.usual_eos)
    except OSError as error:
        raise TokenizerError(
            f"cannot read the tokenizer {path}: {error.strerror}; tokenizer.path must name a "
            "SentencePiece .model file or a tokenizer.json"
        ) from error
    except ValueError as error:
        raise TokenizerError(f"{path}: {error}") from error
