"""The text that the tests of preparing start from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two kinds of text: 300 words-and-numbers documents, 200 of another alphabet."""
    source, folder = random.Random(0), tmp_path / "texts"
    folder.mkdir()
    for name, letters, count in (("a", "etaoin", 300), ("b", "srhldu", 200)):
        words = ["".join(source.choices(letters, k=source.randint(1, 5))) for _ in range(50)]
        documents = [" ".join(source.choices(words, k=30)) + f"\n {i}\n" for i in range(count)]
        lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder
