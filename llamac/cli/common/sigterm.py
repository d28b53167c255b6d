"""SIGTERM as an interrupt, for commands that clean up when they end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Context manager in which SIGTERM raises KeyboardInterrupt.

    It does nothing if the process already handles or ignores SIGTERM, or outside the main thread.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
