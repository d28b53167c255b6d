"""Run Python's garbage collector between steps, at the same steps on all ranks."""

from __future__ import annotations

import gc


class GarbageCollection:
    """Context manager that disables automatic garbage collection and collects every few steps.

    Automatic collection happens in the middle of a step, at different steps on each rank, while the
    other ranks wait. Objects alive at the start are frozen (`gc.freeze`). A step leaves no tensors
    in reference cycles, so memory does not grow between collections.
    """

    def __init__(self, every: int = 100) -> None:
        """Store the interval. every: number of steps between collections, equal on all ranks."""
        self.every = every

    def __enter__(self) -> GarbageCollection:
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()

    def after_step(self, step: int) -> None:
        """Collect garbage if `step` is a multiple of `every`."""
        if step % self.every == 0:
            gc.collect()
