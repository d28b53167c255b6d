"""Write emitted directories: each file atomically, replacing only files that llamac wrote."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import llamac
from llamac.emit.inference import render_inference
from llamac.emit.model import render_model
from llamac.emit.trainer import PACKAGE, has_whole_model, render_trainer, runtime_files
from llamac.ir.printer import print_program
from llamac.ir.program import Program
from llamac.passes.pass_list import Stage, compile_inference, compile_spec, single_rank_spec
from llamac.runtime import durable_files
from llamac.runtime.errors import remedy
from llamac.spec import Spec

MANIFEST = "MANIFEST.json"
"""Emitted file with llamac's version and the sha256 of each other emitted file."""


class BuildError(Exception):
    """An emitted directory cannot be written. The message says why, and what to do."""

    exit_code = 2


MakePlan = Callable[[Program], str]
"""Function (Program after the last pass) → text of plan.json. Callers pass it, as `emit` may not
import `plan`.
"""


def files_of(
    spec: Spec, stages: Iterable[Stage], make_plan: MakePlan | None = None
) -> dict[str, str]:
    """Return the text of every file that is emitted for a spec, by relative path.

    The same spec and llamac version give the same text.

    stages: the spec's Program after each pass, in order; one that changed nothing has no IR file.
    make_plan: function that returns plan.json; None emits no plan.json.
    """
    files: dict[str, str] = {}
    last = None
    for number, stage in enumerate(stages, 1):
        if last is None or stage.program is not last.program:  # passes that changed nothing
            files[f"ir/{number:02d}-{stage.name}.ir"] = print_program(stage.program)
        last = stage
    assert last is not None
    fsdp = spec.parallel.fsdp
    files["model.py"] = render_model(last.program, fsdp)
    holder = "whole_model" if has_whole_model(spec) else "model"
    if holder == "whole_model":
        files["whole_model.py"] = render_model(compile_spec(single_rank_spec(spec)))
    inference = compile_inference(spec)
    files["ir/inference.ir"] = print_program(inference)
    files["inference.py"] = render_inference(inference, holder)
    files |= render_trainer(spec, has_plan=make_plan is not None)
    if make_plan is not None:
        files["plan.json"] = make_plan(last.program)
    files["spec.toml"] = spec.to_toml()
    programs = [text for name, text in files.items() if name.endswith(".py")]
    for name in runtime_files(*programs):
        files[f"runtime/{name}"] = (PACKAGE / "runtime" / name).read_text(encoding="utf-8")
    return files


def is_informational(name: str) -> bool:
    """Return whether an emitted file is for reading only: README.md, plan.json and those in ir/.

    name: relative path.
    """
    return name in ("README.md", "plan.json") or name.startswith("ir/")


def write_directory(
    directory: Path, files: Mapping[str, str], overwrite: bool = False
) -> list[str]:
    """Write `files` (text by relative path) into `directory`, leaving other files untouched.

    An informational file that was edited is renamed first; the returned list has one message for
    each. Files that an earlier build recorded and this one does not emit are deleted.

    Raises BuildError before writing anything if the directory is not empty and not llamac's, its
    manifest is damaged or another of its files was edited (both unless `overwrite`), a path is a
    symbolic link, or a foreign file would shadow a module; later if a file cannot be written.
    """
    recorded = _recorded(directory, overwrite)
    _refuse_links(directory, {*recorded, *files})
    _refuse_shadows(directory, {*recorded, *files})
    edited = _edited(directory, files, recorded)
    if not overwrite:
        _refuse_edited(directory, [name for name in edited if not is_informational(name)])
    hashes = {name: _digest(text.encode()) for name, text in sorted(files.items())}
    manifest = {"llamac": llamac.__version__, "sha256": hashes}
    # Record old and new hashes first, so that an interrupted build can be repeated.
    if any(recorded.get(name) != [digest] for name, digest in hashes.items()):
        before = {name: sorted(set(known)) for name, known in sorted(recorded.items())}
        _replace(directory / MANIFEST, _json(manifest | {"replacing": before}))
    informational = [name for name in edited if is_informational(name)]
    informational += ["ir"] * (directory / "ir").is_file()
    backups = [_set_aside(directory / name) for name in informational]
    for name, text in files.items():
        path = directory / name
        if not (path.is_file() and _digest(path.read_bytes()) == hashes[name]):
            _replace(path, text)
    for name in recorded.keys() - files.keys():
        if (directory / name).is_file():
            (directory / name).unlink()
    for place in {(directory / name).parent for name in files if name.endswith(".py")}:
        shutil.rmtree(place / "__pycache__", ignore_errors=True)  # compiled from older text
    if (directory / MANIFEST).read_text(encoding="utf-8") != _json(manifest):
        _replace(directory / MANIFEST, _json(manifest))
    return [
        f"{directory / name} was edited or damaged; renamed to {new_path.name}"
        for name, new_path in zip(informational, backups, strict=True)
    ]


def _json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2) + "\n"


def _recorded(directory: Path, overwrite: bool) -> dict[str, list[str]]:
    """Return the sha256 of each recorded file by relative path, two after an interrupted build.

    overwrite: treat a damaged manifest as empty.
    """
    if directory.exists() and not directory.is_dir():
        raise BuildError(f"{directory} is a file; choose another directory with -o")
    manifest = directory / MANIFEST
    if not manifest.is_file():
        if directory.exists() and any(not _is_ours(entry) for entry in directory.iterdir()):
            raise BuildError(
                f"{directory} is not empty and was not created by llamac (it has no {MANIFEST}); "
                "choose another with -o; if it was a run, move its data/ and checkpoints/ there"
            )
        return {}
    try:
        read = durable_files.read_json(manifest)
        recorded: dict[str, list[str]] = {}
        for name, digest in read["sha256"].items():
            recorded[name] = [digest]
        for name, digests in read.get("replacing", {}).items():
            recorded.setdefault(name, []).extend(digests)
        if not all(_inside(name) for name in recorded):
            raise ValueError("it names files outside the directory")
        return recorded
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if overwrite:
            return {}
        raise BuildError(
            f"{manifest} is damaged, so edited files cannot be detected: discard edits with "
            "--overwrite, or name another directory with -o"
        ) from None


def _is_ours(entry: Path) -> bool:
    """Return whether an entry not listed in a manifest still belongs to llamac.

    It is the run's prepared data, or a leftover of a build killed before it wrote the manifest.
    """
    prepared = entry.name == "data" and (entry / ".prepare.lock").exists()
    return prepared or entry.name == f".{MANIFEST}.tmp"


def _inside(name: str) -> bool:
    """Return whether a relative path stays inside the directory: recorded files get deleted."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and not {"..", "\0"} & {*path.parts, *name}


def _refuse_links(directory: Path, names: Iterable[str]) -> None:
    """Raise BuildError for a symbolic link, which could lead writes outside the directory."""
    for name in sorted(names):
        for path in (directory / name, *(directory / name).parents):
            if path == directory:
                break
            if path.is_symlink():
                raise BuildError(f"{path} is a symbolic link: remove it, or name another with -o")


def _refuse_shadows(directory: Path, names: Iterable[str]) -> None:
    """Raise BuildError for foreign files that would shadow imported modules.

    Python searches the program's directory first, so a stray `json.py` would be imported instead of
    the standard library's. names: relative paths of llamac's own files.
    """
    own = {path for name in names for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
    places = {path.parent for path in own if path.suffix == ".py"}
    for place in sorted(path for path in places if (directory / path).is_dir()):
        ours = {_module(path) for path in own if path.parent == place}
        for entry in sorted((directory / place).iterdir()):
            name, path = _module(entry), PurePosixPath(entry.relative_to(directory))
            if path in own or not _is_importable(entry):
                continue
            if name in ours or (place == PurePosixPath(".") and _is_installed(name)):
                raise BuildError(
                    f"{entry} would be imported in place of the module {name}: remove it, or name "
                    "another directory with -o"
                )


def _is_importable(entry: Path) -> bool:
    if entry.is_dir():
        return any(entry.glob("__init__.*"))
    return entry.suffix in (".py", ".pyc", ".so", ".pyd")


def _is_installed(module: str) -> bool:
    return module in sys.stdlib_module_names or PathFinder.find_spec(module) is not None


def _module(path: PurePath) -> str:
    return path.name.partition(".")[0]


def _edited(
    directory: Path, files: Mapping[str, str], recorded: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the names of files that match neither the recorded nor the new text."""

    def is_edited(name: str) -> bool:
        path = directory / name
        if not path.is_file():
            return path.is_dir() and is_informational(name)
        found = _digest(path.read_bytes())
        return found not in recorded.get(name, ()) and found != _digest(
            files.get(name, "").encode()
        )

    return [name for name in sorted({*recorded, *files}) if is_edited(name)]


def _refuse_edited(directory: Path, edited: Sequence[str]) -> None:
    if edited:
        script = directory / "launch/local.sh"
        raise BuildError(
            f"{', '.join(edited)} in {directory} changed since llamac wrote it; "
            f"train the edited version with {shlex.join(['bash', str(script)])}, build "
            "elsewhere with -o, or discard the edits with --overwrite"
        )


def _set_aside(path: Path) -> Path:
    """Rename a file (or a directory in its place) to a free name, and return that."""
    names = (path.with_name(f"{path.name}.edited{number or ''}") for number in itertools.count())
    new_path = next(name for name in names if not (name.exists() or name.is_symlink()))
    path.rename(new_path)
    return new_path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_files.write(path, text.encode(), mode=0o755 if path.suffix == ".sh" else None)
    except OSError as error:
        raise BuildError(f"cannot write {path}: {error.strerror}: {remedy(error)}") from None
    except durable_files.Damaged as error:  # it is a directory
        raise BuildError(str(error)) from None
