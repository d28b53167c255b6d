"""One reader for what holds a trained model: an import, or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llamac.runtime import durable_files
from llamac.runtime.checkpoint import checkpoint, load_run
from llamac.runtime.checkpoint.model_directory import open_model
from llamac.runtime.errors import RunError
from llamac.runtime.tokenizers.tokenizer import train_tokenizer

NOTE = {"begin": [1], "end": [2, 7], "context": 64, "generation": {"temperature": 0.5}}


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """An import directory of one weight."""
    state = checkpoint.checkpoint_state(checkpoint.Progress(), {"model": {"dim": 8}}, "")
    tensors = {"model": {"norm": torch.ones(8)}}
    checkpoint.commit(tmp_path, tensors, state | {"weights_only": True}, keep=1)
    durable_files.write_note(tmp_path / "import.json", NOTE)
    (tmp_path / "spec.toml").write_text("[batch]\nsequence_length = 16\n")
    lines = [f"some {word} of text" for word in ("words", "lines", "pages")]
    tokenizer = train_tokenizer(lines, kind="bpe", vocab_size=285)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    return tmp_path


def opened(directory: Path, **options: Any):
    return open_model(directory, "newest", print, **options)


def test_an_import_says_how_its_text_begins_and_ends(imported: Path) -> None:
    model = opened(imported)
    assert model.imported
    assert model.checkpoint == imported / "checkpoints/step-00000000"
    assert (model.begin, model.end, model.context) == ((1,), (2, 7), 64)
    assert model.generation == {"temperature": 0.5}
    assert model.chat_template == "{{ messages }}"
    assert model.tokenizer is not None
    assert model.tokenizer.decode(model.tokenizer.encode("some text")) == "some text"


def test_a_run_begins_after_its_end_of_document(imported: Path) -> None:
    (imported / "import.json").unlink()
    (imported / "data").mkdir()
    (imported / "tokenizer.model").rename(imported / "data/tokenizer.model")
    (imported / "spec.toml").write_text("[batch]\nsequence_length = 16\n[data]\n")
    model = opened(imported)
    assert not model.imported
    assert (model.begin, model.end, model.context) == ((2,), (2,), 16)


def test_a_missing_tokenizer_is_named_or_none(imported: Path) -> None:
    (imported / "tokenizer.model").unlink()
    assert opened(imported, need_tokenizer=False).tokenizer is None
    with pytest.raises(RunError, match=r"no tokenizer.*put its tokenizer\.json"):
        opened(imported)


def test_an_edited_note_is_refused(imported: Path) -> None:
    note = imported / "import.json"
    note.write_text(note.read_text().replace("64", "65"))
    with pytest.raises(RunError, match="checksum"):
        opened(imported)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(load_run.BadRequest):
        opened(tmp_path)


def test_imported_weights_are_no_run_to_resume(imported: Path, tmp_path: Path) -> None:
    path = str(imported / "checkpoints/step-00000000")
    with pytest.raises(RunError, match=r"\[init\] from"):
        checkpoint.find_resume_point(imported, path, {"model": {"dim": 8}}, print)
