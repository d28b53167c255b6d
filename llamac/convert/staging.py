"""Write a directory beside its place, and give it its name once it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamac.runtime import durable
from llamac.runtime.checkpoint.checkpoint import run_lock


@contextmanager
def written_beside(final: Path, then: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a directory that takes the place of `final` when the block ends well.

    It is held for this process, and gone after an error; what is at `final` is then as it was.
    then: called once the directory has its name; if it raises, the name is given back. Raises
    RunError while another process writes it.
    """
    beside, old = (final.with_name(f".{final.name}.{what}") for what in ("writing", "replaced"))
    with run_lock(beside):
        try:
            for left in beside.iterdir():  # of a process that was killed
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            if old.exists() and not final.exists():  # it was killed between two renames
                old.rename(final)
            yield beside
            (beside / ".lock").unlink()
            for path in beside.iterdir():
                durable.flush(path)
            shutil.rmtree(old, ignore_errors=True)
            _exchange(beside, final, old, then)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _exchange(beside: Path, final: Path, old: Path, then: Callable[[], None]) -> None:
    """Rename `final` to `old` and `beside` to `final`, and call `then`; all of it or nothing."""
    try:
        if final.exists():
            final.rename(old)
        beside.rename(final)
        durable.flush(final.parent)
        then()
    except BaseException:
        if not beside.exists():
            final.rename(beside)
        if old.exists():
            old.rename(final)
        raise
