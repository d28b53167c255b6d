"""A trainer says when its own files are not as they were emitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamac.emit.build import MANIFEST, write_directory
from llamac.runtime.emitted import changes, read_spec

MADE = {
    "model.py": "",
    "runtime/a.py": "a\n",
    "spec.toml": "seed = 1\n",
    "README.md": "",
    "plan.json": "",
}


def test_what_is_as_it_was_emitted_is_not_mentioned(tmp_path: Path, capsys) -> None:
    write_directory(tmp_path, MADE)
    (tmp_path / "README.md").write_text("notes")
    assert read_spec(tmp_path) == {"seed": 1}
    (tmp_path / MANIFEST).unlink()  # a copy without it
    assert read_spec(tmp_path) == {"seed": 1}
    assert capsys.readouterr().err == ""


def test_files_that_decide_what_is_learnt_are_named_if_they_changed(tmp_path: Path, capsys) -> None:
    write_directory(tmp_path, MADE)
    (tmp_path / "spec.toml").write_text("seed = 2\n")
    (tmp_path / "runtime/a.py").unlink()
    assert read_spec(tmp_path) == {"seed": 2}
    assert capsys.readouterr().err == "changed since llamac wrote them: runtime/a.py, spec.toml\n"
    for text in ("", "[]", "[" * 100_000, '{"sha256": 3}'):
        (tmp_path / MANIFEST).write_text(text)
        assert "MANIFEST.json is damaged" in changes(tmp_path)


@pytest.mark.parametrize("text", [None, b"[", b"\xff", b"a = " + b"[" * 100_000])
def test_a_spec_that_cannot_be_read_ends_the_program_with_the_way_out(text, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "spec.toml").write_bytes(text)
    with pytest.raises(SystemExit, match=r"spec\.toml cannot be read .*: build the trainer again"):
        read_spec(tmp_path)


def test_half_a_build_does_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(tmp_path, MADE)
    replace, left = __import__("os").replace, iter(range(2))

    def dying(source: str, target: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", dying)
    with pytest.raises(KeyboardInterrupt):
        write_directory(tmp_path, {name: text + "# new\n" for name, text in MADE.items()})
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="a build was interrupted"):
        read_spec(tmp_path)
