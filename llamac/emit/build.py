"""Writing an emitted directory: only our own files, each whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

import llamac
from llamac.emit.model import render_model
from llamac.emit.trainer import PACKAGE, has_whole_model, render_trainer, runtime_files
from llamac.ir.printer import print_program
from llamac.ir.program import Program
from llamac.passes.pipeline import Stage, compile_spec
from llamac.spec import Spec
from llamac.spec.parallel import WHOLE

MANIFEST = "MANIFEST.json"


class BuildError(Exception):
    """The directory cannot be written as it stands; says why, and the way out."""

    exit_code = 2


Foresee = Callable[[Program], str]
"""The text of plan.json: what `llamac.plan`, which this part does not know, makes of a Program."""


def files_of(spec: Spec, stages: Iterable[Stage], foresee: Foresee | None = None) -> dict[str, str]:
    """Every file of the emitted directory, by relative path. The same spec gives the same bytes."""
    files: dict[str, str] = {}
    last = None
    for number, stage in enumerate(stages, 1):
        if last is None or stage.program is not last.program:  # some passes have nothing to do
            files[f"ir/{number:02d}-{stage.name}.ir"] = print_program(stage.program)
        last = stage
    assert last is not None
    files["model.py"] = render_model(last.program)
    if has_whole_model(spec):
        files["whole_model.py"] = render_model(compile_spec(_whole(spec)))
    files |= render_trainer(spec, planned=foresee is not None)
    if foresee is not None:
        files["plan.json"] = foresee(last.program)
    files["spec.toml"] = spec.to_toml()
    programs = [text for name, text in files.items() if name.endswith(".py")]
    for name in runtime_files(*programs):
        files[f"runtime/{name}"] = (PACKAGE / "runtime" / name).read_text(encoding="utf-8")
    return files


def _whole(spec: Spec) -> Spec:
    """The same model for one process, which makes text: a budget is for training."""
    trains = {"recompute.policy": "selective", "recompute.budget": None}
    return spec.replace(WHOLE | (trains if spec.recompute.budget else {}))


def write(directory: Path, files: Mapping[str, str], overwrite: bool = False) -> None:
    """Bring `directory` up to date with `files`, and leave everything else in it alone.

    Raises BuildError rather than write into a directory that is not ours, or over a file that was
    edited since we wrote it (`overwrite` allows the latter).
    """
    recorded = _recorded(directory)
    if not overwrite:
        _refuse_edited(directory, files, recorded)
    for name, text in files.items():
        path = directory / name
        if not (path.is_file() and _digest(path.read_bytes()) == _digest(text.encode())):
            _replace(path, text)
    for name in recorded.keys() - files.keys():
        (directory / name).unlink(missing_ok=True)
    hashes = {name: _digest(text.encode()) for name, text in sorted(files.items())}
    manifest = {"llamac": llamac.__version__, "sha256": hashes}
    _replace(directory / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _recorded(directory: Path) -> dict[str, str]:
    """What we wrote there before: relative path → sha256."""
    if directory.exists() and not directory.is_dir():
        raise BuildError(f"{directory} is a file; name another directory with -o")
    manifest = directory / MANIFEST
    if not manifest.is_file():
        if directory.exists() and any(not _is_prepared(entry) for entry in directory.iterdir()):
            raise BuildError(
                f"{directory} is not empty and llamac did not make it; name another with -o"
            )
        return {}
    try:
        recorded = dict(json.loads(manifest.read_text(encoding="utf-8"))["sha256"])
        if not all(_inside(name) for name in recorded):
            raise ValueError("it names files elsewhere")
        return recorded
    except (ValueError, KeyError, TypeError):
        raise BuildError(
            f"{manifest} is damaged, so edited files cannot be told apart; remove it or use -o"
        ) from None


def _is_prepared(entry: Path) -> bool:
    """Whether it is the data that `llamac data prepare` has put where the run will look for it."""
    return entry.name == "data" and (entry / ".prepare.lock").exists()


def _inside(name: str) -> bool:
    """Return whether a path stays below the directory: recorded files may be deleted."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _refuse_edited(directory: Path, files: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    edited = [
        name
        for name in sorted({*recorded, *files})
        if (path := directory / name).is_file()
        and (found := _digest(path.read_bytes())) != recorded.get(name)
        and found != _digest(files.get(name, "").encode())
    ]
    if edited:
        script = directory / "launch/local.sh"
        raise BuildError(
            f"{', '.join(edited)} in {directory} changed since llamac wrote it; "
            f"train your version as it stands with {shlex.join(['bash', str(script)])}, build "
            "elsewhere with -o, or give it up with --overwrite"
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8", newline="\n")
        if path.suffix == ".sh":
            temporary.chmod(0o755)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            path.with_name(f".{path.name}.tmp").unlink()
        raise BuildError(f"cannot write {path}: {error.strerror}") from None
