"""A prepared directory: one process at a time writes it, and damage in it is found."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from llamac.runtime import durable_files
from llamac.runtime.data import prepared
from llamac.runtime.data.prepared import PreparedDataError, load_manifest, verify_prepared
from llamac.runtime.data.token_shards import prepare
from llamac.runtime.tokenizers import tokenizer
from tests.runtime.data.test_token_shards import arguments


def test_a_second_process_waits_and_finds_the_data_ready(texts: Path, tmp_path: Path) -> None:
    """The first stops halfway, in a process of its own, until the second has begun to wait."""
    context = multiprocessing.get_context("fork")
    halfway, go_on = context.Event(), context.Event()

    def first() -> None:
        def halt(stage: str, _: int) -> None:
            if stage == "tokenizing b":
                halfway.set()
                go_on.wait(60)

        prepare(tmp_path / "data", **arguments(texts), progress=halt)

    stages: list[str] = []

    def progress(stage: str, _: int) -> None:
        stages.append(stage)
        go_on.set()

    process = context.Process(target=first)
    process.start()
    assert halfway.wait(60)
    manifest = prepare(tmp_path / "data", **arguments(texts), progress=progress)
    process.join(60)
    assert process.exitcode == 0
    assert stages[0] == f"waiting for the process at {tmp_path / 'data'}"
    assert not any(stage.startswith(("tokenizing", "sampling")) for stage in stages)
    assert verify_prepared(tmp_path / "data") == manifest


def test_a_killed_process_leaves_no_lock(texts: Path, tmp_path: Path) -> None:
    def die(stage: str, _: int) -> None:
        if stage == "tokenizing b":
            os.kill(os.getpid(), signal.SIGKILL)

    settings = arguments(texts)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: prepare(tmp_path / "data", **settings, progress=die)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    stages: list[str] = []
    prepare(tmp_path / "data", **settings, progress=lambda stage, _: stages.append(stage))
    assert {stage for stage in stages if stage.startswith("tokenizing")} == {"tokenizing b"}


def test_a_place_that_cannot_hold_data_is_an_error(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreparedDataError, match=r"cannot prepare data in .*set data\.directory"):
        prepare(tmp_path / "file", **arguments(texts))


def test_verify_reads_every_byte(texts: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    manifest = prepare(root, **arguments(texts))
    assert verify_prepared(root) == manifest
    shard = root / manifest["sources"][1]["train"]["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    load_manifest(root)  # sizes alone cannot tell
    with pytest.raises(PreparedDataError, match="is damaged"):
        verify_prepared(root)
    data[100] ^= 1
    shard.write_bytes(data)
    other = tokenizer.train_tokenizer(["abc def " * 40], kind="bpe", vocab_size=270)
    (root / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(PreparedDataError, match=r"tokenizer\.model is damaged"):
        verify_prepared(root)


def test_a_damaged_shard_is_found_when_it_is_used_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read = tmp_path / "data", []
    real = durable_files.check
    monkeypatch.setattr(durable_files, "check", lambda *args: (read.append(args[0]), real(*args)))
    manifest = prepare(root, **arguments(texts))
    count = 3 + sum(len(s[p]["shards"]) for s in manifest["sources"] for p in prepared.SPLITS)
    assert len(read) == count  # the tokenizer, the counts and the shards
    for _ in range(2):  # once per size and times of change
        read.clear()
        assert prepare(root, **arguments(texts)) == manifest
        assert not read
    for garbage in ("", "[1]", "{"):  # a note that cannot be read is no note
        (root / ".verified.json").write_text(garbage)
        read.clear()
        prepare(root, **arguments(texts))
        assert len(read) == count
    (root / ".verified.json").unlink()
    (root / ".verified.json").mkdir()  # nor one that cannot be written
    assert prepare(root, **arguments(texts)) == manifest
    (root / ".verified.json").rmdir()
    shard = root / manifest["sources"][1]["train"]["shards"][0]["file"]
    data, status = bytearray(shard.read_bytes()), shard.stat()
    data[100] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    for _ in range(2):  # and is not taken for whole the second time
        read.clear()
        with pytest.raises(PreparedDataError, match=rf"{shard} is damaged.*delete {root}/manifest"):
            prepare(root, **arguments(texts))
        assert shard in read
