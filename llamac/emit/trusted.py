"""Get the program of a run or an import for execution, only if it is llamac's own code."""

from __future__ import annotations

from pathlib import Path

from llamac.emit.build import files_of
from llamac.passes.pass_list import stages
from llamac.runtime.checkpoint.model_directory import is_import
from llamac.runtime.emitted import decides
from llamac.spec import load_spec


class UntrustedError(Exception):
    """The directory's code is not what llamac emits."""

    exit_code = 2


def trusted_program(run: Path) -> dict[str, str]:
    """Return the program that this llamac emits for the spec in `run`, as relative path → text.

    run: directory of a run or an import. Raises UntrustedError if it holds different code: that
    code might not be llamac's, and the emitted program might not be the one that trained the
    weights.
    """
    spec = load_spec(str(run / "spec.toml"))
    files = {name: text for name, text in files_of(spec, stages(spec)).items() if decides(name)}
    if is_import(run):  # it holds no code
        return files
    other = [name for name, text in files.items() if not _holds(run / name, text)]
    if other:
        raise UntrustedError(
            f"{run} holds other code than this llamac emits for its spec: {', '.join(other)}. If "
            "you know who wrote it, `llamac generate --trust` runs it; or bring it up to date with "
            f"`llamac build {run}/spec.toml -o {run}`"
        )
    return files


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False
