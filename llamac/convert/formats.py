"""Detection of a model's format, and the dtypes of written weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from llamac.convert.errors import ConversionError
from llamac.convert.model_source import ForeignModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Dtypes of written weights, by their names in `--dtype`; `gguf_export.TYPES` has GGUF's."""


def open_source(
    path: Path, base: Path | None = None, log: Callable[[str], None] = print
) -> ForeignModel:
    """Open the model at `path`, detecting its format, without reading the weights.

    path: a directory of Hugging Face's, Meta's or peft's format, or a .gguf file.
    base: the import, run or checkpoint that peft adapters were trained on; None for other formats.
    log: called with each message for the user.
    Raises ConversionError if the format is unknown, files are damaged, the model is not supported,
    or `base` does not fit the format; RunError if `base` has no undamaged checkpoint.
    """
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        if base is None:
            raise ConversionError(
                f"{path} holds adapters alone: import the model they were trained on, and give "
                "that import as --base DIR"
            )
        from llamac.convert.hf.peft_import import open_peft

        return open_peft(path, base, log)
    if base is not None:
        raise ConversionError(f"{path} holds no adapters (adapter_config.json): leave out --base")
    if path.is_file():
        if path.suffix == ".gguf":
            from llamac.convert.gguf.gguf_import import open_gguf

            return open_gguf(path)
        raise ConversionError(f"{path} is not a .gguf file; for other formats, give the directory")
    if (path / "config.json").exists():
        from llamac.convert.hf.hf_import import open_hf

        return open_hf(path)
    if (path / "params.json").exists():
        from llamac.convert.meta.meta_import import open_meta

        return open_meta(path)
    raise ConversionError(
        f"{path} has no config.json (Hugging Face), params.json (Meta) or "
        "adapter_config.json (peft)"
    )


def dtype_of(name: str | None) -> torch.dtype | None:
    """Return the torch dtype of a name given to `--dtype`; None if `name` is None.

    Raises ConversionError for a name that is not in `DTYPES`.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise ConversionError(f"unknown --dtype {name}; known: {', '.join(DTYPES)}")
    return DTYPES[name]
