"""A tokenizer of HF's `tokenizer.json` format, by the tokenizers library."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .tokenizer import Tokenizer, TokenizerError

EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[EOS]")
"""What files call the end of a document; the format itself does not say which piece it is."""


class JsonTokenizer(Tokenizer):
    """As Tokenizer. model: the file's text, with the id of the end of a document as `eos`."""

    def __init__(self, model: bytes, eos: int | None = None) -> None:
        tokenizers = _tokenizers()
        try:
            described = json.loads(model)
            eos = described.pop("eos", None) if eos is None else eos
            described.pop("eos", None)
            # What cuts or fills texts is for batches of a fixed size.
            described |= {"truncation": None, "padding": None}
            self._whole = tokenizers.Tokenizer.from_str(json.dumps(described))
        except Exception as error:  # the library raises plain Exceptions
            raise TokenizerError(f"not a tokenizer.json ({error})") from error
        self._described = described
        self.vocab_size: int = self._whole.get_vocab_size()
        self.eos = _eos(self._whole) if eos is None else eos
        if not 0 <= self.eos < self.vocab_size:
            raise TokenizerError(f"it has no piece {self.eos}, which tokenizer.eos says it has")
        self.unk = self.bos = -1
        self.model = json.dumps(described | {"eos": self.eos}, ensure_ascii=False).encode()

    @property
    def pieces_sha256(self) -> str:
        """Hash of all that makes tokens of text."""
        text = json.dumps(self._described, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[np.ndarray]:
        # Rayon's pool is made once, at its first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
        found = self._whole.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int32) for one in found]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._whole.decode(known, skip_special_tokens=True)

    def score(self, token: int) -> float:
        """The format has merges instead of scores."""
        return 0.0

    def piece(self, token: int) -> str:
        return self._whole.id_to_token(token) or ""


def _eos(tokenizer: Any) -> int:
    for name in EOS_NAMES:
        if (found := tokenizer.token_to_id(name)) is not None:
            return found
    raise TokenizerError(
        "no piece of it has a usual name for the end of a document: give its id as tokenizer.eos"
    )


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise TokenizerError("a tokenizer.json needs tokenizers: pip install tokenizers") from error
    return tokenizers
