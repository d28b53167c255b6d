"""Export of a run or an import in any format, written atomically."""

from __future__ import annotations

from pathlib import Path

from llamac.convert.errors import ConversionError
from llamac.convert.formats import dtype_of
from llamac.convert.staging import written_beside
from llamac.convert.trained import Say, open_trained

MARKERS = {
    "hf": "config.json",
    "meta": "params.json",
    "gguf": "model.gguf",
    "peft": "adapter_config.json",
}
"""A file by which an export of the format is known."""


def write_export(
    run: Path,
    output: Path,
    format: str,
    which: str,
    dtype: str | None,
    parts: int,
    overwrite: bool,
    say: Say,
) -> None:
    """Write the directory `output`.

    format: hf, meta, gguf or peft. which: a step, a path, or "newest".
    dtype: name of the weights' dtype; None keeps theirs. parts: number of files in Meta's format.
    Raises ConversionError if the format does not support the model, RunError for a damaged
    checkpoint.
    """
    marker = MARKERS[format]
    require_output(output, overwrite, marker)
    to = None if format == "gguf" else dtype_of(dtype)
    trained = open_trained(run, which, say)
    with written_beside(output) as directory:
        if format == "gguf":
            from llamac.convert.gguf.gguf_export import write_gguf

            write_gguf(trained, directory / marker, dtype)
        elif format == "peft":
            from llamac.convert.hf.peft_export import write_peft

            write_peft(trained, directory, to)
        elif format == "hf":
            from llamac.convert.hf.hf_export import write_hf

            write_hf(trained, directory, to)
        else:
            from llamac.convert.meta.meta_export import write_meta

            write_meta(trained, directory, to, parts)


def require_output(output: Path, overwrite: bool, marker: str) -> None:
    """Raise ConversionError if an export must not replace an existing directory or file."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConversionError(f"{output} exists and is not a directory: choose another with -o")
    if output.exists() and any(output.iterdir()):
        ours = (output / marker).is_file()
        if not (overwrite and ours):
            way = "replace it with --overwrite, or " if ours else ""
            raise ConversionError(f"{output} is not empty: {way}choose another with -o")
