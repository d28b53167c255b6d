"""Saving while training goes on: a copy in host memory, and a thread that writes it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .. import events
from ..distributed.ranks import Ranks
from ..errors import RunError
from . import checkpoint
from .checkpoint import Progress
from .dcp import TensorChunk, Tensors, as_box


class Saver:
    """Saves checkpoints as `checkpoint.commit` does, in the background if `asynchronous`.

    All ranks make one together, and call its methods together. Host memory for one copy of what
    this rank saves is taken at the first save and kept: pinned, where the tensors are on a GPU.
    Leaving the `with` block waits for what is being written.
    """

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self._ranks = Ranks.world()
        self._host: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with suppress(*([RunError] if kind else [])):  # the first error is the one to tell
            self.wait()

    def save(
        self,
        run: Path,
        tensors: Tensors,
        progress: Progress,
        curve: Mapping[str, Any],
        spec_sha256: str,
        keep: int,
    ) -> None:
        """Save the present; tensors and random state may change as soon as this returns.

        Waits for the save before, and raises its error.
        """
        self.wait()
        state = checkpoint.state_of(progress, curve, spec_sha256)
        if not self.asynchronous:
            self._commit(run, tensors, state, keep)
            return
        work = (run, self._copied(tensors), state, keep)
        self._thread = threading.Thread(target=self._try_commit, args=work, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return once what was saved is in its place; raises RunError if it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _commit(self, run: Path, tensors: Tensors, state: Mapping[str, Any], keep: int) -> None:
        checkpoint.commit(run, tensors, state, keep, self._ranks)
        if self._ranks.rank == 0:
            events.record(run, "save", state["step"])

    def _try_commit(self, *work: Any) -> None:
        try:
            self._commit(*work)
        except BaseException as error:  # raised by `wait`, in the thread that trains
            self._error = error

    def _copied(self, tensors: Tensors) -> dict[str, dict[str, TensorChunk]]:
        copied: dict[str, dict[str, TensorChunk]] = {}
        for section, parts in tensors.items():
            copied[section] = {}
            for name, part in parts.items():
                box = as_box(part)
                host = self._buffer(section, name, box.tensor)
                host.copy_(box.tensor.detach(), non_blocking=True)
                copied[section][name] = replace(box, tensor=host)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return copied

    def _buffer(self, section: str, name: str, like: Tensor) -> Tensor:
        key = (section, name)
        if key not in self._host:
            pinned = like.is_cuda
            self._host[key] = torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)
        return self._host[key]
