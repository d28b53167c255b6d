"""Obtain the code of a run or import for execution, if it is the code that llamac emits."""

from __future__ import annotations

from pathlib import Path

from llamac.emit.build import files_of
from llamac.passes.pass_list import stages
from llamac.runtime.checkpoint.model_directory import is_import
from llamac.runtime.emitted import affects_results
from llamac.spec import load_spec


class UntrustedError(Exception):
    """The code in a run directory differs from what llamac emits for its spec."""

    exit_code = 2


def trusted_program(run: Path) -> dict[str, str]:
    """Return the files that determine what a run's program computes, as text by relative path.

    They are generated from the directory's spec.toml, not read from the directory. Raises
    UntrustedError if a run's own files differ or are missing: they might not be llamac's code, or
    not the code that trained the weights.

    run: directory of a run, or of an import, which holds no code and is not compared.
    """
    spec = load_spec(str(run / "spec.toml"))
    files = {
        name: text for name, text in files_of(spec, stages(spec)).items() if affects_results(name)
    }
    if is_import(run):  # it holds no code
        return files
    other = [name for name, text in files.items() if not _holds(run / name, text)]
    if other:
        raise UntrustedError(
            f"the code in {run} differs from what this llamac emits for its spec: "
            f"{', '.join(other)}. If you know who wrote it, `llamac generate --trust` runs it; to "
            f"update it, run `llamac build {run}/spec.toml -o {run}`"
        )
    return files


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
