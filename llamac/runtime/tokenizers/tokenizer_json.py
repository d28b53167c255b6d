"""Load tokenizers of Hugging Face's `tokenizer.json` format, with the tokenizers library.

Plain text is never encoded to special tokens. The library is configured not to search for them in
text; where a model finds one by itself (as Unigram, WordLevel and WordPiece may), the text is
encoded again with an additional pre-tokenizer that splits such names after the first character.
Added tokens that are not special, such as runs of spaces, are ordinary pieces of text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .tiktoken_file import special_token
from .tokenizer import LARGEST_VOCABULARY, Tokenizer, TokenizerError

EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<eos>", "[EOS]")
"""Usual names of the EOS token; the format itself does not say which token it is."""


class JsonTokenizer(Tokenizer):
    """A tokenizer.json with the interface of `Tokenizer`, whose arguments and attributes it has.

    In prepared data, the file also stores the id of its EOS, as `eos`.
    """

    def __init__(
        self, model: bytes, eos: int | str | None = None, usual: str | None = None
    ) -> None:
        tokenizers = _tokenizers()
        try:
            self._described = described = json.loads(model)
            saved = described.pop("eos", None)
            # Truncation and padding are for batches of a fixed size.
            described |= {"truncation": None, "padding": None}
            ids = _pieces_of(described)
            unknown = _unknown_of(described["model"])
            end = _end(ids, saved if eos is None else eos, (usual, *EOS_NAMES))
            self._exact = _exact(described, ids, end)
            self._names = _names_in_model(described, ids, _special(described, end) | {unknown})
            self._whole = tokenizers.Tokenizer.from_str(json.dumps(self._exact))
        except TokenizerError:
            raise
        except Exception as error:  # the library raises plain Exceptions
            raise TokenizerError(f"not a tokenizer.json ({error})") from error
        self._whole.encode_special_tokens = True
        pieces: dict[str, int] = self._whole.get_vocab(with_added_tokens=True)
        # Ids may have gaps, so their number does not give the largest.
        self.vocab_size: int = max(pieces.values(), default=-1) + 1
        if not 0 < self.vocab_size <= LARGEST_VOCABULARY:
            raise TokenizerError(
                f"its largest id is {self.vocab_size - 1:,}; ids must be from 0 to "
                f"{LARGEST_VOCABULARY - 1:,}"
            )
        if isinstance(eos, int) and pieces.get(end or "") != eos:
            raise TokenizerError(
                f"the tokenizers library gives {end!r} the id {pieces.get(end or '')}, "
                f"but the file says {eos}: set tokenizer.eos to the right id or text"
            )
        self.eos, self.unk = pieces.get(end or "", -1), pieces.get(unknown or "", -1)
        self.bos = -1
        self.control = tuple(
            sorted(_special(described, end) & pieces.keys(), key=pieces.__getitem__)
        )
        self._is_control = np.zeros(self.vocab_size, dtype=bool)
        for name in self.control:
            if pieces[name] == self.eos or (name != unknown and len(name) > 1):
                self._is_control[pieces[name]] = True
        self._unknown_name = unknown if unknown in self._names else None
        self._unseen: dict[str, bool] = {}  # characters without tokens
        saved_form = described if self.eos < 0 else described | {"eos": self.eos}
        self.model = json.dumps(saved_form, ensure_ascii=False).encode()

    @property
    def pieces_sha256(self) -> str:
        """Return the sha256 of tokenizer.json as JSON with sorted keys.

        Truncation and padding are set to null, and llamac's own key `eos` is removed, so that they
        do not affect it.
        """
        text = json.dumps(self._described, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[np.ndarray]:
        # Rayon creates its pool once, at first use.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
        encoded, name = _ids(self._whole, texts), self._unknown_name
        affected = [
            number
            for number, (text, ids) in enumerate(zip(texts, encoded, strict=True))
            if self._is_control[ids].any() or (name is not None and name in text)
        ]
        if affected:
            reencoded = _ids(self._cutting, [texts[number] for number in affected])
            for number, ids in zip(affected, reencoded, strict=True):
                encoded[number] = ids
                if len(special := ids[self._is_control[ids]]):
                    raise TokenizerError(
                        f"the tokenizer encodes plain text to its special token "
                        f"{self.piece(int(special[0]))!r}: set tokenizer.eos to another piece, or "
                        "use another tokenizer"
                    )
        return encoded

    @cached_property
    def _cutting(self) -> Any:
        """Return the tokenizer that splits names of special tokens, or None if not needed."""
        regex = "|".join(f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in self._names)
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        steps = [self._exact.get("pre_tokenizer")]
        steps += [split | {"pattern": {"Regex": regex}}] if self._names else []
        cut = {"type": "Sequence", "pretokenizers": [step for step in steps if step]}
        tokenizer = _tokenizers().Tokenizer.from_str(
            json.dumps(self._exact | {"pre_tokenizer": cut})
        )
        tokenizer.encode_special_tokens = True
        return tokenizer

    def unknown(self, texts: Sequence[str], encoded: Sequence[np.ndarray]) -> int:
        """Return the number of unknown tokens in texts. encoded: ids of each text, int32 [n].

        A model without an unknown piece drops unknown text; unless it is lossless, the characters
        other than spaces that give no token are then counted.
        """
        if self.unk >= 0 or self.lossless:
            return super().unknown(texts, encoded)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        new = [char for char in counts if char not in self._unseen and not char.isspace()]
        dropped = (not len(ids) for ids in self.encode_batch(new))
        self._unseen.update(zip(new, dropped, strict=True))
        return sum(count for char, count in counts.items() if self._unseen.get(char))

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._whole.decode(known, skip_special_tokens=True)

    def score(self, token: int) -> float:
        """Return 0 for every token, as BPE in this format has merges instead of scores."""
        return 0.0

    def piece(self, token: int) -> str:
        return self._whole.id_to_token(token) or ""


def _pieces_of(described: dict[str, Any]) -> dict[str, int]:
    """Return the ids of the model's pieces and added tokens."""
    added = described.get("added_tokens") or ()
    return _model_pieces(described["model"]) | {entry["content"]: entry["id"] for entry in added}


def _model_pieces(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
        return {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return vocabulary


def _unknown_of(model: dict[str, Any]) -> str | None:
    """Return the model's unknown piece."""
    if model.get("unk_id") is not None:
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token") or None


def _end(ids: dict[str, int], eos: int | str | None, names: Iterable[str | None]) -> str | None:
    """Return the EOS piece: the requested one, else one with a usual name, else None."""
    if eos is None:
        return next((name for name in names if name in ids), None)
    matches = [piece for piece, i in ids.items() if i == eos or piece == eos]
    if not matches:
        raise TokenizerError(f"unknown piece in tokenizer.eos: {eos!r}")
    piece = eos if isinstance(eos, str) else matches[-1]
    if len(piece.strip("▁Ġ ")) <= 1 or re.fullmatch("<0x[0-9A-F]{2}>", piece):
        raise TokenizerError(
            f"tokenizer.eos = {eos!r} is {piece!r}, a character of ordinary text, which cannot "
            "mark the end of a document: name a special token"
        )
    return piece


def _special(described: dict[str, Any], end: str | None) -> set[str]:
    added = described.get("added_tokens") or ()
    return {entry["content"] for entry in added if entry["special"]} | ({end} if end else set())


def _exact(described: dict[str, Any], ids: dict[str, int], end: str | None) -> dict[str, Any]:
    """Return the description with `end` as a special token, and without `dropout`.

    The same text then always gives the same tokens.
    """
    model, added = described["model"], list(described.get("added_tokens") or ())
    if end is not None:
        added = [entry for entry in added if entry["content"] != end] + [
            special_token(ids[end], end)
        ]
        added.sort(key=lambda entry: entry["id"])
    model = model | ({"dropout": None} if "dropout" in model else {})
    return described | {"added_tokens": added, "model": model}


def _names_in_model(
    described: dict[str, Any], ids: dict[str, int], names: set[str | None]
) -> list[str]:
    """Return the model's pieces that are special tokens or, in damaged files, share their id."""
    special = {ids.get(name or "") for name in names} - {None}
    pieces = _model_pieces(described["model"]).items()
    return [piece for piece, i in pieces if i in special and len(piece) > 1]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    try:
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    except BaseException as error:  # the library's panic is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"the tokenizer cannot encode this text: {error}") from error
    return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise TokenizerError("a tokenizer.json needs tokenizers: pip install tokenizers") from error
    return tokenizers
