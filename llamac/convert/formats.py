"""Detection of a model's format, and the dtypes of written weights."""

from __future__ import annotations

from pathlib import Path

import torch

from llamac.convert.errors import ConversionError
from llamac.convert.model_source import ForeignModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_source(path: Path) -> ForeignModel:
    """Return the model at `path` in any known format. Raises ConversionError."""
    if path.is_file():
        if path.suffix == ".gguf":
            from llamac.convert.gguf.gguf_import import open_gguf

            return open_gguf(path)
        raise ConversionError(f"{path} is no .gguf file; of other formats give the directory")
    if (path / "config.json").exists():
        from llamac.convert.hf.hf_import import open_hf

        return open_hf(path)
    if (path / "params.json").exists():
        from llamac.convert.meta.meta_import import open_meta

        return open_meta(path)
    raise ConversionError(
        f"{path} has neither a config.json (Hugging Face) nor a params.json (Meta)"
    )


def dtype_of(name: str | None) -> torch.dtype | None:
    """Return the dtype of an option, or None to keep each tensor's own."""
    if name is None:
        return None
    if name not in DTYPES:
        raise ConversionError(f"--dtype {name} is not known: {', '.join(DTYPES)}")
    return DTYPES[name]
