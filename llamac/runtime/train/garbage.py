"""Python's garbage collector, run between steps at set points rather than within them."""

from __future__ import annotations

import gc


class GarbageCollection:
    """Turn the collector off for the steps of a run, as a context manager, and run it by step.

    Left to itself it runs in the middle of a step, on each rank in another one, and every other
    rank waits. What is alive at the start stays, so it is not looked at again. A step leaves no
    tensors in reference cycles, so memory does not grow in between.
    """

    def __init__(self, every: int = 100) -> None:
        """every: steps from one collection to the next, the same on all ranks."""
        self.every = every

    def __enter__(self) -> GarbageCollection:
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()

    def after(self, step: int) -> None:
        if step % self.every == 0:
            gc.collect()
