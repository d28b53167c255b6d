"""Damage in a preparation that is under way: mended, or named, and never trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llamac.runtime.errors import RunError
from tests.data.preparing import hashes, prepared, write_corpus, write_spec
from tests.data.test_restart import dies_at_a_rename
from tests.runtime.data.test_damage import DAMAGE, flip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web", files=2)
    return folder


def outcome(spec: Path, root: Path, whole: dict[str, str]) -> str:
    """ "same", or the error, which names a file of the preparation and a way out."""
    try:
        prepared(spec, root)
    except RunError as error:
        told = str(error)
        assert str(root) in told
        assert "delete" in told or "rm -r" in told, told
        return told
    left = {name: digest for name, digest in hashes(root).items() if not name.startswith(".work")}
    assert left == {name: digest for name, digest in whole.items() if not name.startswith(".work")}
    return "same"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("renames", [12, 34, 60, 74, 86])
def test_a_damaged_file_gives_the_same_data_or_an_error(
    corpus: Path, renames: int, damage: str, tmp_path: Path
) -> None:
    spec = write_spec(corpus)
    prepared(spec, tmp_path / "whole")
    whole = hashes(tmp_path / "whole")
    assert dies_at_a_rename(spec, tmp_path / "begun", renames, after=True)
    files = [p for p in sorted((tmp_path / "begun").rglob("*")) if p.is_file() and p.stat().st_size]
    outcomes = set()
    for path in files:
        root = tmp_path / "damaged"
        shutil.copytree(tmp_path / "begun", root)
        DAMAGE[damage](root / path.relative_to(tmp_path / "begun"))
        outcomes.add(outcome(spec, root, whole))
        shutil.rmtree(root)
    assert len(files) > 4
    assert "same" in outcomes


@pytest.mark.parametrize("kind", ["docs", "names"])
def test_a_damaged_index_of_a_finished_part_is_written_again(
    corpus: Path, kind: str, tmp_path: Path
) -> None:
    spec, root = write_spec(corpus), tmp_path / "prepared"
    prepared(spec, root)
    whole = hashes(root)
    (root / "manifest.json").unlink()
    flip(root / f"web/train-00000.{kind}")
    assert outcome(spec, root, whole) == "same"
