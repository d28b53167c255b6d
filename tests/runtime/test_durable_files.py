"""Files are whole or absent, and damage in them is found before they are used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llamac.runtime import durable_files
from llamac.runtime.durable_files import (
    Damaged,
    NewFile,
    atomic_write,
    check,
    check_once,
    read_note,
    write,
)
from llamac.runtime.errors import RunError


def flip(path: Path, at: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "f", b"old")
    with pytest.raises(TypeError), atomic_write(tmp_path / "f") as file:
        file.write("no bytes")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_link_at_either_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("f", ".f.tmp", "f.sha256", ".f.sha256.tmp"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "f", b"new", sealed=True)
    assert victim.read_bytes() == b"precious"
    assert check(tmp_path / "f").read_bytes() == b"new"


def test_a_note_knows_damage_and_names_of_any_bytes(tmp_path: Path) -> None:
    note, value = tmp_path / "note.json", {"name": os.fsdecode(b"\xff.txt"), "n": [1, 2.5, None]}
    assert read_note(note) is None
    written = durable_files.write_note(note, value)
    assert read_note(note) == written
    assert {**value, "sha256": written["sha256"]} == written
    note.write_text(note.read_text().replace("2.5", "2.25"))
    with pytest.raises(Damaged, match=rf"{note} is damaged"):
        read_note(note)
    for text in ("", "[", "[]", "3", "[" * 100_000, "9" * 5_000, "\0"):
        note.write_text(text)
        with pytest.raises(Damaged, match=rf"{note} is damaged"):
            read_note(note)
        assert durable_files.read_note_or_empty(note) == {}


def test_a_sealed_file_knows_damage(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, b"content", sealed=True)
    assert check(path) == path
    flip(path)
    with pytest.raises(Damaged, match=rf"{path} is damaged"):
        check(path)
    flip(path)
    seal = durable_files.seal_path(path)
    flip(seal)
    assert not durable_files.is_undamaged(path)
    seal.write_bytes(b"\xff")
    with pytest.raises(Damaged, match=rf"^{seal} is damaged"):
        check(path)
    seal.unlink()
    with pytest.raises(Damaged, match=rf"^{seal}, the checksum of f, is missing$"):
        check(path)
    path.unlink()
    with pytest.raises(Damaged, match=rf"{path} is missing"):
        check(path)


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name in ("f", "pipe"):
        with pytest.raises(Damaged, match="not a regular file"):
            check(tmp_path / name, "0" * 64)
        with pytest.raises(OSError, match="not a regular file"):
            durable_files.read_json(tmp_path / name)


@pytest.mark.parametrize("renamed", [False, True], ids=["unfinished", "finished but not noted"])
def test_a_file_goes_on_after_what_was_noted(tmp_path: Path, renamed: bool) -> None:
    path = tmp_path / "f"
    file = NewFile(path)
    file.write(b"noted")
    file.flush()
    noted = file.size, file.sha256
    file.write(b" and more, lost")
    file.flush()
    if renamed:
        file.commit()
    again = NewFile(path, noted)
    again.write(b" anew")
    assert again.commit() == durable_files.sha256_of(path)
    assert path.read_bytes() == b"noted anew"


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_file_does_not_go_on_after_damage(tmp_path: Path, damage: str) -> None:
    path, beside = tmp_path / "f", tmp_path / ".f.tmp"
    file = NewFile(path)
    file.write(b"noted")
    file.flush()
    if damage == "flip":
        flip(beside)
    elif damage == "cut":
        os.truncate(beside, 3)
    else:
        beside.unlink()
    with pytest.raises(Damaged, match=rf"{path} is (damaged|missing)"):
        NewFile(path, (file.size, file.sha256))


def test_files_are_read_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(tmp_path / f"{n}", write(tmp_path / f"{n}", b"x" * 100 * n)) for n in range(1, 9)]
    note, read = tmp_path / "sub" / "note.json", list[int]()
    note.parent.mkdir()
    check_once(files, note, read.append)
    assert read[-1] == 3600
    read.clear()
    check_once(files, note, read.append)
    assert not read
    for garbage in ("", "[1]", "[" * 100_000, '{"../1": 3}'):  # a note that is none is no note
        note.write_text(garbage)
        check_once(files, note, read.append)
        assert read.pop() == 3600
    status = files[3][0].stat()
    flip(files[3][0])
    os.utime(files[3][0], ns=(status.st_atime_ns, status.st_mtime_ns))  # as if it had not changed
    for _ in range(2):
        with pytest.raises(Damaged, match=rf"{files[3][0]} is damaged"):
            check_once(files, note, read.append)
    assert json.loads(note.read_text()).keys() <= {f"../{n}" for n in range(1, 9)}


def test_a_link_out_of_a_run_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "alias").symlink_to(run)
    (run / "within").symlink_to("elsewhere")
    (run / "out").symlink_to("../victim")
    assert durable_files.path_within(tmp_path / "alias", "data") == tmp_path / "alias" / "data"
    assert durable_files.path_within(run, "within/x") == run / "within" / "x"
    for name in ("out", "out/x"):
        with pytest.raises(
            RunError, match=rf"{run}/{name} is a symbolic link that leads out of {run}"
        ):
            durable_files.path_within(run, name)
