"""Export a run or an import in any format, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from llamac.convert.formats import dtype_of
from llamac.convert.trained import Say, open_trained, require_output, written_beside

MARKERS = {"hf": "config.json", "meta": "params.json", "gguf": "model.gguf"}
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
    """Write the directory `output`. format: hf, meta or gguf. which: a step, a path, or "newest".

    dtype: name of the weights' dtype; None: as they are. parts: files of Meta's format.  Raises
    ConversionError for what the format cannot hold, RunError for a damaged checkpoint.
    """
    require_output(output, overwrite, MARKERS[format])
    if format == "gguf":
        from llamac.convert.gguf_export import write_gguf

        trained = open_trained(run, which, say)
        with written_beside(output, overwrite, MARKERS[format]) as directory:
            write_gguf(trained, directory / MARKERS[format], dtype)
        return
    to = dtype_of(dtype)
    trained = open_trained(run, which, say)
    with written_beside(output, overwrite, MARKERS[format]) as directory:
        if format == "hf":
            from llamac.convert.hf_export import write_hf

            write_hf(trained, directory, to)
        else:
            from llamac.convert.meta_export import write_meta

            write_meta(trained, directory, to, parts)
