"""Export of a run or an import in any format, written atomically."""

from __future__ import annotations

from pathlib import Path

from llamac.convert.errors import ConversionError
from llamac.convert.formats import dtype_of
from llamac.convert.staging import staged_directory
from llamac.convert.trained_model import Log, open_trained_model

MARKERS = {
    "hf": "config.json",
    "meta": "params.json",
    "gguf": "model.gguf",
    "peft": "adapter_config.json",
}
"""Name of the file by which an earlier export is recognised, by format."""


def write_export(
    run: Path,
    output: Path,
    format: str,
    checkpoint: str,
    dtype: str | None,
    parts: int,
    overwrite: bool,
    log: Log,
) -> None:
    """Export the model of a run or an import to the directory `output`, complete or not at all.

    format: "hf", "meta", "gguf" or "peft". checkpoint: a step, a path, or "newest".
    dtype: name of the written weights' dtype; None keeps the checkpoint's.
    parts: number of model-parallel ranks, and thus of files, in Meta's format; otherwise ignored.
    overwrite: whether to replace an earlier export of this format.
    log: called with each message for the user.
    Raises ConversionError if the format does not support the model or `dtype`, or `output` must
    not be replaced; OSError or RunError if there is no undamaged checkpoint or writing fails.
    """
    marker = MARKERS[format]
    require_output(output, overwrite, marker)
    torch_dtype = None if format == "gguf" else dtype_of(dtype)
    trained = open_trained_model(run, checkpoint, log)
    with staged_directory(output) as directory:
        if format == "gguf":
            from llamac.convert.gguf.gguf_export import write_gguf

            write_gguf(trained, directory / marker, dtype)
        elif format == "peft":
            from llamac.convert.hf.peft_export import write_peft

            write_peft(trained, directory, torch_dtype)
        elif format == "hf":
            from llamac.convert.hf.hf_export import write_hf

            write_hf(trained, directory, torch_dtype)
        else:
            from llamac.convert.meta.meta_export import write_meta

            write_meta(trained, directory, torch_dtype, parts)


def require_output(output: Path, overwrite: bool, marker: str) -> None:
    """Raise ConversionError unless `output` is absent, an empty directory, or may be overwritten.

    overwrite: whether a directory with an earlier export may be; a symbolic link never may.
    marker: name of the file that identifies an earlier export.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConversionError(f"{output} exists and is not a directory: choose another with -o")
    if output.exists() and any(output.iterdir()):
        is_export = (output / marker).is_file()
        if not (overwrite and is_export):
            advice = "replace it with --overwrite, or " if is_export else ""
            raise ConversionError(f"{output} is not empty: {advice}choose another with -o")
