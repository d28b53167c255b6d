"""A preparation may be killed at any moment: run again, it ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llamac.cli import main
from llamac.data import executor
from llamac.data.state import SettingsChangedError
from llamac.runtime.errors import RunError
from tests.data.preparing import hashes, prepared, write_corpus, write_spec


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web")
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    prepared(write_spec(corpus), root)
    return hashes(root)


def dies_at_a_rename(spec: Path, root: Path, number: int, after: bool) -> bool:
    """Prepares in a process that is killed right before, or after, it gives a file its name for
    the number-th time. False if it got to the end before that."""
    child = os.fork()
    if child == 0:
        rename, count = os.replace, 0

        def replace(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
        os.fsync = lambda _: None  # a killed process loses nothing that it wrote
        try:
            prepared(spec, root)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_rename_in_turn(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path, after: bool
) -> None:
    """Every process gets a few files further than the one before, and dies."""
    spec, deaths = write_spec(corpus), 0
    while dies_at_a_rename(spec, tmp_path, 3 + deaths % 15, after):
        deaths += 1
        assert deaths < 300
    assert deaths > 15
    assert hashes(tmp_path) == undisturbed


@pytest.mark.slow
def test_killed_at_any_moment_with_its_workers(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Also in the midst of writing. Workers end with their parent, or they would write on."""
    spec = write_spec(corpus)
    command = [sys.executable, "-m", "tests.data.preparing", str(spec), str(tmp_path)]
    for files in (5, 25, 45):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and sum(1 for _ in tmp_path.rglob("*.*")) < files:
            time.sleep(0.005)
        assert process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    assert hashes(tmp_path) == undisturbed


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    prepared(write_spec(corpus), tmp_path, workers=2)
    assert hashes(tmp_path) == undisturbed


def test_a_changed_key_is_named_and_nothing_is_touched(corpus: Path, tmp_path: Path) -> None:
    spec = write_spec(corpus)
    dies_at_a_rename(spec, tmp_path, 12, after=True)
    before = hashes(tmp_path)
    with pytest.raises(SettingsChangedError) as raised:
        prepared(spec, tmp_path, "data.source.0.stage.0.min_chars=13", "tokenizer.train_bytes=9K")
    message = str(raised.value)
    assert "data.source.web.stage.0.length.min_chars: 12 before, 13 now" in message
    assert f"rm -r {tmp_path}/.work/web {tmp_path}/.work/.tokens" in message
    assert hashes(tmp_path) == before


def test_changed_files_are_named(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "web", files=2)
    spec = write_spec(tmp_path)
    dies_at_a_rename(spec, tmp_path / "out", 8, after=True)
    write_corpus(tmp_path / "web", files=3)
    with pytest.raises(
        SettingsChangedError, match=r"web.paths: the files: .*'files': 2.*'files': 3"
    ):
        prepared(spec, tmp_path / "out")


@pytest.mark.slow
def test_other_tokens_need_no_cleaning_anew(corpus: Path, tmp_path: Path) -> None:
    """What the message says to delete is deleted: the text stays."""
    spec = write_spec(corpus)
    prepared(spec, tmp_path)
    text = {k: v for k, v in hashes(tmp_path).items() if k.startswith((".work/web", ".work/notes"))}
    with pytest.raises(SettingsChangedError) as raised:
        prepared(spec, tmp_path, "data.validation=0.2")
    assert "data.validation: 0.1 before, 0.2 now" in str(raised.value)
    command = str(raised.value).splitlines()[-1].split()
    assert command == ["rm", "-r", f"{tmp_path}/.work/.tokens", f"{tmp_path}/manifest.json"]
    subprocess.run(command, check=True)
    manifest = prepared(spec, tmp_path, "data.validation=0.2")
    assert manifest["settings"]["data.validation"] == 0.2
    assert text.items() <= hashes(tmp_path).items()


def killed(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def never(number: int) -> bool:
    return False


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_the_way_out() -> None:
    job = executor.Job(killed, (1,), 0, never)
    with (
        pytest.raises(RunError, match=r"a worker process was killed .*: run again to resume"),
        executor.process_engine(2) as engine,
    ):
        list(engine([job]))


@pytest.mark.slow
def test_prepared_data_outlives_its_files_and_the_work_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "web", files=2)
    spec = write_spec(tmp_path)
    prepared(spec, tmp_path / "prepared")
    shutil.rmtree(tmp_path / "prepared" / ".work")
    shutil.rmtree(tmp_path / "web")
    before = hashes(tmp_path / "prepared")
    assert main(["data", "prepare", str(spec)]) == 0
    assert hashes(tmp_path / "prepared") == before
    assert main(["data", "prepare", str(spec), "--set", "data.validation=0.3"]) == 2
    assert "data.validation: 0.1 before, 0.3 now" in capsys.readouterr().err
