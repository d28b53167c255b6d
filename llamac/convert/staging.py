"""Atomic creation of a directory: written under a temporary name, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamac.runtime import durable_files
from llamac.runtime.checkpoint.checkpoint import run_lock


@contextmanager
def written_beside(final: Path, then: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary directory that replaces `final` when the block succeeds.

    It is locked for this process and deleted after an error, which leaves `final` unchanged. then:
    called after the renaming; if it raises, the renaming is undone. Raises RunError while another
    process writes it.
    """
    temporary, old = (final.with_name(f".{final.name}.{what}") for what in ("writing", "replaced"))
    with run_lock(temporary):
        try:
            for left in temporary.iterdir():  # of a process that was killed
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            if old.exists() and not final.exists():  # it was killed between two renames
                old.rename(final)
            yield temporary
            (temporary / ".lock").unlink()
            for path in temporary.iterdir():
                durable_files.flush(path)
            shutil.rmtree(old, ignore_errors=True)
            _exchange(temporary, final, old, then)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, final: Path, old: Path, then: Callable[[], None]) -> None:
    """Rename `final` to `old` and `temporary` to `final`, and call `then`; all of it or nothing."""
    try:
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        durable_files.flush(final.parent)
        then()
    except BaseException:
        if not temporary.exists():
            final.rename(temporary)
        if old.exists():
            old.rename(final)
        raise
