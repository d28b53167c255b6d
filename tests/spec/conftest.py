"""A small valid spec, and ways to break it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamac.spec import Spec, SpecError, load_spec

VALID = """\
[model]
dim = 64
n_layers = 2
n_heads = 4
vocab_size = 512

[[data.source]]
name = "docs"
kind = "python-docs"
share = 3

[[data.source]]
name = "texts"
kind = "files"
share = 1.0
paths = ["texts/*.md"]

[optimizer]
lr = 1e-3

[schedule]
steps = 100
warmup_steps = 10

[batch]
sequence_length = 32
sequences = 8
micro_batch = 4
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(here: Path) -> Callable[..., Spec]:
    """`load(text, *overrides)`: the spec in a file run.toml with this text."""

    def load(text: str, *overrides: str) -> Spec:
        (here / "run.toml").write_text(text, encoding="utf-8")
        return load_spec("run.toml", overrides)

    return load


@pytest.fixture
def errors(load: Callable[..., Spec]) -> Callable[..., str]:
    """`errors(text, *overrides)`: what the spec is refused with."""

    def errors(text: str, *overrides: str) -> str:
        with pytest.raises(SpecError) as caught:
            load(text, *overrides)
        return str(caught.value)

    return errors
