"""Create directories atomically: write under a temporary name, then rename."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamac.runtime import durable_files
from llamac.runtime.checkpoint.checkpoint import run_lock
from llamac.runtime.errors import RunError, remedy


@contextmanager
def staged_directory(
    final: Path, after_rename: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a temporary directory that replaces `final` when the block succeeds.

    It is locked for this process. An error deletes it and leaves `final` unchanged.
    after_rename: called once `final` is replaced; if it raises, the replacement is undone.
    Raises RunError if another process is writing the same directory, OSError or RunError if the
    disk fails.
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
            _exchange(temporary, final, old, after_rename)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            if error.filename is not None:
                raise
            reason = error.strerror or error  # NumPy gives a text alone
            raise RunError(f"{final} was not written: {reason}; {remedy(error)}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, final: Path, old: Path, after_rename: Callable[[], None]) -> None:
    """Replace `final` by `temporary` and call `after_rename`; undo the renames if it raises."""
    try:
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        durable_files.flush(final.parent)
        after_rename()
    except BaseException:
        if not temporary.exists():
            final.rename(temporary)
        if old.exists():
            old.rename(final)
        raise
