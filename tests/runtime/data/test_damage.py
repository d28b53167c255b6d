"""Damage in prepared data, wherever it is: mended from the text, or named with the way out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llamac.runtime.data.packing import pack
from llamac.runtime.data.prepared import PreparedDataError
from llamac.runtime.data.token_shards import prepare
from tests.runtime.data.test_token_shards import arguments, tree


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


DAMAGE = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zero": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "delete": Path.unlink,
}


def unfinished(root: Path, texts: Path) -> None:
    """A preparation that is stopped when source a is finished and b is not."""

    def stop(stage: str, _: int) -> None:
        if stage == "tokenizing b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(root, **arguments(texts), progress=stop)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_before_the_end_is_mended(damage: str, texts: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "whole", **arguments(texts))
    unfinished(tmp_path / "begun", texts)
    files = [path.relative_to(tmp_path / "begun") for path in (tmp_path / "begun").rglob("*.*")]
    files = [file for file in files if file.name != ".prepare.lock"]
    assert {"tokenizer.model", "train-00000.bin", "source.json"} <= {file.name for file in files}
    for file in files:
        root = tmp_path / "damaged"
        shutil.copytree(tmp_path / "begun", root)
        DAMAGE[damage](root / file)
        said: list[str] = []
        prepare(root, **arguments(texts), progress=lambda stage, _, said=said: said.append(stage))
        assert tree(root) == tree(tmp_path / "whole"), file
        if file.suffix in (".bin", ".npy"):
            assert any(f"{root / file} is" in line and "again" in line for line in said), said
        shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_afterwards_is_named_and_the_way_out_works(
    damage: str, texts: Path, tmp_path: Path
) -> None:
    manifest = prepare(tmp_path / "whole", **arguments(texts))
    before = tree(tmp_path / "whole")
    decides = {"manifest.json", "tokenizer.model"}
    decides |= {
        s["file"]
        for p in manifest["sources"]
        for k in ("train", "validation")
        for s in p[k]["shards"]
    }
    for name in filter(before.get, before):
        root = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", root)
        DAMAGE[damage](root / name)
        counts = name.endswith("unigrams.npy") and damage != "delete"
        if (name in decides and (name, damage) != ("manifest.json", "delete")) or counts:
            with pytest.raises(PreparedDataError, match=rf"{root / name} (is|has|cannot).*delete"):
                prepare(root, **arguments(texts))
            (root / "manifest.json").unlink()
            prepare(root, **arguments(texts))
            assert tree(root) == before
        else:
            assert prepare(root, **arguments(texts)) == manifest
        shutil.rmtree(root)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_packing_is_made_again(damage: str, texts: Path, tmp_path: Path) -> None:
    manifest = prepare(tmp_path, **arguments(texts))
    pack(tmp_path, manifest, 32)
    before = tree(tmp_path)
    packed = [name for name in before if ".packed-" in name]
    assert len(packed) == 16
    for name in packed:
        DAMAGE[damage](tmp_path / name)
        pack(tmp_path, manifest, 32)
        assert tree(tmp_path) == before
