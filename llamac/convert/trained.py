"""What an export starts from: a run or an import, with its weights not yet read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from llamac.convert.directory import shapes_of
from llamac.convert.errors import ConversionError
from llamac.convert.tensors import Stored, require_tensors
from llamac.convert.weights import read_weights
from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.checkpoint.model_directory import ModelDirectory, is_import, open_model
from llamac.spec import Spec, load_spec

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainedModel:
    """A model to export. tensors: by canonical name, in the row order of spec.model.rope_layout."""

    opened: ModelDirectory
    spec: Spec
    tensors: dict[str, Stored]

    @property
    def step(self) -> int:
        return checkpoint.read_state(self.opened.checkpoint)["step"]

    def cast(self, dtype: torch.dtype | None) -> dict[str, Stored]:
        """Return the tensors in `dtype`, or each in its own."""
        return {name: tensor.cast(dtype) for name, tensor in self.tensors.items()}


def open_trained(run: Path, which: str, say: Say) -> TrainedModel:
    """Open a run or an import whose checkpoint is whole. Raises RunError."""
    opened = open_model(run, which, say, need_tokenizer=not is_import(run))
    spec = load_spec(str(run / "spec.toml"))
    if checkpoint.read_state(opened.checkpoint)["curve"].get("model") != opened.spec["model"]:
        raise ConversionError(f"{opened.checkpoint} holds another model than {run}/spec.toml says")
    tensors, shapes = read_weights(opened.checkpoint), shapes_of(spec)
    require_tensors(tensors, shapes, str(opened.checkpoint))
    return TrainedModel(opened, spec, {name: tensors[name] for name in shapes})


@contextmanager
def written_beside(output: Path, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield a directory that takes the place of `output` when the block ends well.

    marker: a file that tells an export of this format; only such a directory is replaced, and only
    with `overwrite`. Raises ConversionError.
    """
    require_output(output, overwrite, marker)
    beside = output.with_name(f".{output.name}.exporting")
    old = output.with_name(f".{output.name}.replaced")
    output.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.run_lock(beside):
        try:
            for left in beside.iterdir():  # of an export that was killed
                if left.name != ".lock":
                    left.unlink()
            yield beside
            for path in beside.iterdir():
                checkpoint.durable.flush(path)
            (beside / ".lock").unlink()
            shutil.rmtree(old, ignore_errors=True)
            if output.exists():
                output.rename(old)
            beside.rename(output)
            checkpoint.durable.flush(output.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def require_output(output: Path, overwrite: bool, marker: str) -> None:
    """Raise ConversionError if an export may not take the place of what is there."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConversionError(f"{output} exists and is no directory: name another with -o")
    if output.exists() and any(output.iterdir()):
        ours = (output / marker).is_file()
        if not (overwrite and ours):
            way = "replace it with --overwrite, or " if ours else ""
            raise ConversionError(f"{output} is not empty: {way}name another with -o")
