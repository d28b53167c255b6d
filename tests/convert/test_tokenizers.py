"""Exported tokenizers give our ids, on 10,000 lines of text of every kind."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tokenizers

from llamac.runtime.tokenizers.tokenizer import train_tokenizer, training_lines
from tests.convert.conftest import exports, make_run

FOREIGN = (
    "\u6700\u8fd1\u306e\u5929\u6c17\u306f\u826f\u3044",
    "\u8bed\u8a00\u6a21\u578b\u5b66\u4e60\u6587\u5b57",
    "\uc548\ub155\ud558\uc138\uc694",
    "\u041c\u043e\u0434\u0435\u043b\u044c \u0443\u0447\u0438\u0442\u0441\u044f",
    "\u0627\u0644\u0644\u063a\u0629 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f600\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    "3.14159 1,234,567 0x7f",
    "\ufb01 \u2460 \u00a0 \ufeff",
)


def mixed_lines(count: int) -> Iterator[str]:
    """Real lines of Python's documentation, as they are and with what text elsewhere holds."""
    chance = random.Random(0)
    real = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    for _ in range(count):
        line = chance.choice(real)
        words = line.split(" ")
        if chance.random() < 0.5:
            words.insert(chance.randrange(len(words) + 1), chance.choice(FOREIGN))
        if chance.random() < 0.2:
            words.insert(chance.randrange(len(words) + 1), str(chance.randrange(10**9)))
        line = " ".join(words)
        form = chance.choice(("NFC", "NFD", None, None))
        line = unicodedata.normalize(form, line) if form else line
        before = chance.choice(("", "", " ", "   ", "\t", "\t\t "))
        after = chance.choice(("", "", "\n", "\r\n", " ", "\t\n\n"))
        yield before + line + after


@pytest.mark.slow
def test_an_exported_tokenizer_gives_our_ids_on_mixed_text(tmp_path: Path) -> None:
    text = ["\n".join(topics[name] for name in sorted(topics))[:400_000]]
    tokenizer = train_tokenizer(training_lines(text), kind="bpe", vocab_size=2000)
    make_run(tmp_path / "run", tokenizer, "model.vocab_size=2048")
    exported = exports(tmp_path / "run")
    ids, line = [], ""
    theirs = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    for line in mixed_lines(10_000):
        ids = tokenizer.encode(line).tolist()
        assert theirs.encode(line).ids == [tokenizer.eos, *ids], line
        assert theirs.encode(line, add_special_tokens=False).ids == ids
    assert tokenizer.decode(ids) == theirs.decode(ids) == line
