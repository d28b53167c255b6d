"""Asynchronous checkpointing: tensors are copied to host memory, which a thread writes to disk."""

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
from .dcp import TensorChunk, Tensors, as_chunk


class CheckpointSaver:
    """Context manager that saves checkpoints, in the background if `asynchronous`.

    All ranks construct it and call its methods together. If asynchronous, the first save allocates
    host memory for a copy of the rank's tensors (pinned, if they are on a GPU), which later saves
    use again. Leaving the `with` block waits for the save in progress.
    """

    def __init__(self, keep: int, asynchronous: bool) -> None:
        """Create the saver's process group.

        keep: number of newest checkpoints to retain. asynchronous: whether `save` returns as soon
        as the tensors are copied to host memory.
        """
        self.keep, self.asynchronous = keep, asynchronous
        self._ranks = Ranks.world()
        self._host: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with suppress(*([RunError] if kind else [])):  # usually a consequence of the first error
            self.wait()

    def save(
        self,
        run: Path,
        tensors: Tensors,
        progress: Progress,
        settings: Mapping[str, Any],
        spec_sha256: str,
    ) -> None:
        """Save a checkpoint of the run; tensors may be modified as soon as this returns.

        tensors: this rank's parts. progress, settings, spec_sha256: as in `checkpoint_state`. Waits
        for the previous save first, and raises its error if it failed. Deletes all but the newest
        checkpoints, and records the save in the run's events.jsonl.
        """
        self.wait()
        state = checkpoint.checkpoint_state(progress, settings, spec_sha256)
        if not self.asynchronous:
            self._commit(run, tensors, state)
            return
        work = (run, self._copy_to_host(tensors), state)
        self._thread = threading.Thread(target=self._try_commit, args=work, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last save is complete; if it failed, raise its error once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _commit(self, run: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
        checkpoint.commit(run, tensors, state, self.keep, self._ranks)
        if self._ranks.rank == 0:
            events.record(run, "save", state["step"])

    def _try_commit(self, *work: Any) -> None:
        try:
            self._commit(*work)
        except BaseException as error:  # raised by `wait`, in the thread that trains
            self._error = error

    def _copy_to_host(self, tensors: Tensors) -> dict[str, dict[str, TensorChunk]]:
        copied: dict[str, dict[str, TensorChunk]] = {}
        for section, parts in tensors.items():
            copied[section] = {}
            for name, part in parts.items():
                chunk = as_chunk(part)
                host = self._buffer(section, name, chunk.tensor)
                host.copy_(chunk.tensor.detach(), non_blocking=True)
                copied[section][name] = replace(chunk, tensor=host)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return copied

    def _buffer(self, section: str, name: str, like: Tensor) -> Tensor:
        key = (section, name)
        if key not in self._host:
            pinned = like.is_cuda
            self._host[key] = torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)
        return self._host[key]
