"""Export a run or an import in any format, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from llamac.convert.formats import dtype_of
from llamac.convert.trained import Say, open_trained, require_output, written_beside

MARKERS = {"hf": "config.json"}
"""A file by which an export of the format is known."""


def write_export(
    run: Path,
    output: Path,
    format: str,
    which: str,
    dtype: str | None,
    overwrite: bool,
    say: Say,
) -> None:
    """Write the directory `output`. format: hf. which: a step, a path, or "newest".

    dtype: name of the weights' dtype; None: as they are.  Raises
    ConversionError for what the format cannot hold, RunError for a damaged checkpoint.
    """
    require_output(output, overwrite, MARKERS[format])
    to = dtype_of(dtype)
    trained = open_trained(run, which, say)
    with written_beside(output, overwrite, MARKERS[format]) as directory:
        from llamac.convert.hf_export import write_hf

        write_hf(trained, directory, to)
