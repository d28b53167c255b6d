"""Atomic checkpoints: complete or absent, verified before use, never overwritten.

    RUN/checkpoints/step-00001000/
        tensors/        torch.distributed.checkpoint: model, exp_avg, exp_avg_sq, all fp32, under
                        canonical names, independent of how the run was sharded
        state.json      step, data position, random state, settings that determine the loss curve
        MANIFEST.json   size and sha256 of every file above

A checkpoint is written to a temporary directory, flushed to disk and renamed, so a directory named
`step-…` was complete when it appeared; the manifest detects later damage. Deletion renames first,
for the same reason. Names that start with a dot are temporary and safe to remove. Each rank writes
its own tensors and verifies a share of the files; rank 0 creates directories and deletes them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from .. import durable_files
from ..distributed.ranks import Ranks
from ..errors import RunError, remedy
from ..train.progress import Progress
from . import dcp, integrity
from .dcp import Tensors
from .random_state import random_state, set_random_state
from .same_settings import require_same_settings

T = TypeVar("T")
RESUME_ADVICE = "resume from another checkpoint with --resume PATH, or restore it from a backup"


Log = Callable[[str], None]
SINGLE_RANK = Ranks()


@contextmanager
def run_lock(run: Path, ranks: Ranks = SINGLE_RANK) -> Iterator[None]:
    """Context manager that locks `run` against other trainers, creating it if it does not exist.

    Rank 0 locks RUN/.lock for all ranks. If another process has locked it, or it cannot be created,
    all ranks raise RunError. The kernel releases the lock when the process ends, however it ends.
    """
    with ExitStack() as stack:
        ranks.on_first(lambda: stack.enter_context(_locked(run)))
        yield


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = os.open(run / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}: {remedy(error)}") from error
    with os.fdopen(lock, "r+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunError(
                f"another trainer (process {holder}) is writing {run}: wait for it, stop it, "
                "or choose another directory: -o DIR (train.py: --run DIR)"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def checkpoint_state(
    progress: Progress, settings: Mapping[str, Any], spec_sha256: str
) -> dict[str, Any]:
    """Return the contents of a checkpoint's state.json, with the random state of this moment.

    settings: settings that must be unchanged to resume (`find_resume_point`), stored under "curve".
    spec_sha256: hash of the run's resolved spec.
    """
    state = asdict(progress) | {"spec_sha256": spec_sha256, "curve": dict(settings)}
    return state | {"random": random_state()}


def commit(
    run: Path, tensors: Tensors, state: Mapping[str, Any], keep: int, ranks: Ranks = SINGLE_RANK
) -> Path:
    """Write the checkpoint of a step, delete all but the newest `keep`, and return its path.

    All ranks call this. tensors: this rank's parts. state: from `checkpoint_state`. keep: number of
    checkpoints, the new one included. If any rank cannot write its part, raises RunError on all
    ranks after deleting the files written.
    """
    directory = durable_files.path_within(run, "checkpoints")
    final = checkpoint_path(run, state["step"])
    temporary = directory / f".writing-{final.name}"

    def begin() -> None:
        _remove_leftovers(directory)
        temporary.mkdir(parents=True)

    def own_part() -> tuple[dict[str, Any], Any]:
        files = (temporary / "tensors").glob(f"__{ranks.rank}_*")
        return integrity.manifest_entries(files, temporary), state["random"]

    def finish() -> None:
        random = [part[1] for part in parts]
        everything = {**state, "random": random[:1] if _all_equal(random) else random}
        finalize(temporary, everything, [part[0] for part in parts])
        temporary.rename(final)
        durable_files.flush(directory)

    def prune() -> None:
        for old in steps(run)[:-keep]:
            checkpoint_path(run, old).rename(directory / f".deleting-{old}")
        _remove_leftovers(directory)

    try:
        ranks.on_first(lambda: _attempt(begin, run))
        ranks.on_each(
            lambda: _attempt(lambda: dcp.write(temporary / "tensors", tensors, ranks), run)
        )
        parts = ranks.on_each(lambda: _attempt(own_part, run))
        ranks.on_first(lambda: _attempt(finish, run))
    except RunError as error:
        if ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)  # does not follow links
        raise RunError(f"cannot save step {state['step']} in {directory}: {error}") from error
    ranks.on_first(prune)
    return final


def _attempt(work: Callable[[], T], run: Path) -> T:
    """Call `work()`; turn OSError and RuntimeError into a RunError that says what to do."""
    try:
        return work()
    except RunError:
        raise
    except (OSError, RuntimeError) as error:
        free = f"{shutil.disk_usage(run).free / 1e6:,.0f} MB free there"
        raise RunError(f"{_first_line(error)} ({free}): {remedy(error)}, then resume") from error


def finalize(
    temporary: Path, state: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
) -> None:
    """Add state.json and MANIFEST.json to the tensors in `temporary`, and flush all to disk.

    state: contents of state.json. entries: manifest entries of files that are already hashed, one
    mapping per rank; the remaining files are hashed here.
    """
    (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    manifest = {name: entry for part in entries for name, entry in part.items()}
    others = (p for p in temporary.rglob("*") if str(p.relative_to(temporary)) not in manifest)
    manifest |= integrity.manifest_entries((path for path in others if path.is_file()), temporary)
    text = json.dumps(manifest, indent=1, sort_keys=True)
    (temporary / "MANIFEST.json").write_text(text + "\n")
    _flush_tree(temporary)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def load(path: Path, tensors: Tensors, ranks: Ranks = SINGLE_RANK) -> dict[str, Any]:
    """Load a checkpoint into `tensors` in place; return its state.json, parsed.

    All ranks call this, each with its own parts of the tensors; the run that saved it may have had
    another parallel layout. path: the step's directory. Does not verify checksums. Raises RunError
    on all ranks if any of them cannot read all its parts.
    """

    def work() -> dict[str, Any]:
        try:
            dcp.read(path / "tensors", tensors)
            return integrity.read_state(path)
        except Exception as error:  # unpickling can raise a dozen kinds
            why = _first_line(error)
            if "weights_only" in why:  # torch's message advises weights_only=False: unsafe
                why = "one of its tensor files is damaged, or holds objects other than tensors"
            raise RunError(f"{path} cannot be read: {why}; {RESUME_ADVICE}") from error

    return ranks.on_each(work)[ranks.rank]


def steps(run: Path) -> list[int]:
    """Return the steps of `run`'s checkpoints in ascending order, undamaged or not."""
    names = {path.name for path in (run / "checkpoints").glob("step-*")}
    candidates = (int(name[5:]) for name in names if re.fullmatch(r"step-[0-9]{8,12}", name))
    return sorted(step for step in candidates if checkpoint_path(run, step).name in names)


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of `run`'s checkpoint of a step, whether it exists or not."""
    return run / "checkpoints" / f"step-{step:08d}"


def newest_undamaged(run: Path, log: Log, ranks: Ranks = SINGLE_RANK) -> Path | None:
    """Return the path of the newest checkpoint of `run` with valid checksums.

    None if it has no undamaged checkpoint. All ranks call this, verify a share of the files each,
    and get the same path. Rank 0 reports newer, damaged checkpoints to `log`.
    """
    own = ranks.on_first(lambda: steps(run))
    for step in reversed(own):
        path = checkpoint_path(run, step)
        problem = integrity.damage(path, ranks)
        if not problem:
            return path
        fallback = ": falling back to the one before" if step != own[0] else ""
        if ranks.rank == 0:
            log(f"checkpoint {path.name} is damaged ({problem}){fallback}")
    return None


def find_resume_point(
    run: Path, resume: str, settings: Mapping[str, Any], log: Log, ranks: Ranks = SINGLE_RANK
) -> tuple[Path | None, dict[str, Any]]:
    """Return (checkpoint to continue from, its state), or (None, {}) to start from step 0.

    All ranks call this and get the same result. Deletes files left by interrupted saves.

    Args:
        run: directory of the run.
        resume: "auto" for the newest undamaged checkpoint of `run`; "never" for none, which is an
            error if the run has checkpoints; or a path: a checkpoint of this run or, if this run
            has none, of another run.
        settings: settings that determine the loss curve, compared with the checkpoint's. A new run
            from another run's checkpoint may change those in `same_settings.BRANCH_SECTIONS`.
        log: receives messages, on rank 0.
        ranks: all ranks of the run.

    Raises:
        RunError: the checkpoint (for "auto", every one) is damaged, or it holds weights only or has
            other settings; `resume` is "never" and `run` has checkpoints; or `resume` is a
            checkpoint of another run and `run` has its own.
    """
    ranks.on_first(lambda: _remove_leftovers(durable_files.path_within(run, "checkpoints")))
    try:
        path = _choose(run, resume, log, ranks)
    except RunError as error:
        raise RunError(str(error), printing_rank=0) from error  # every rank raises the same error
    if path is None:
        return None, {}
    state = ranks.on_first(lambda: _resumable(path))
    step = state["step"]
    notes = ranks.on_each(lambda: require_same_settings(state["curve"], settings, path, step, run))
    if notes[0] and ranks.rank == 0:
        log(notes[0])
    return path, state


def _resumable(path: Path) -> dict[str, Any]:
    """Return the state of the checkpoint at `path`. Raises RunError if it holds weights only."""
    state = integrity.read_state(path)
    if state.get("weights_only"):
        raise RunError(
            f"{path} holds imported weights without optimizer state, so no run can resume from "
            'it: start a run from them with --set init.from=DIR, or with [init] from = "DIR" in '
            "the spec"
        )
    return state


def _choose(run: Path, resume: str, log: Log, ranks: Ranks) -> Path | None:
    own = ranks.on_first(lambda: steps(run))
    if resume == "never":
        if own:
            raise RunError(
                f"{run} already has checkpoints, up to step {own[-1]}: continue it with "
                "--resume auto, choose another directory with -o DIR (train.py: --run DIR), "
                "or move its checkpoints/ away first"
            )
        return None
    if resume != "auto":
        return _require_usable(Path(resume).resolve(), run, bool(own), ranks)
    newest = newest_undamaged(run, log, ranks)
    if own and newest is None:
        raise RunError(
            f"every checkpoint of {run} is damaged or incomplete: restore one from a backup, "
            "choose another "
            "directory with -o DIR (train.py: --run DIR), or move its checkpoints/ away to start "
            "again from step 0"
        )
    return newest


def _require_usable(path: Path, run: Path, has_own: bool, ranks: Ranks) -> Path:
    if has_own and path.parent != (run / "checkpoints").resolve():
        raise RunError(
            f"{path} is not a checkpoint of {run}, which has checkpoints of its own: choose "
            "another directory with -o DIR (train.py: --run DIR)"
        )
    if problem := integrity.damage(path, ranks):
        raise RunError(f"cannot resume from {path}: {problem}")
    return path


def restore(
    path: Path,
    state: Mapping[str, Any],
    tensors: Tensors,
    settings: Mapping[str, Any],
    run: Path,
    log: Log,
    ranks: Ranks = SINGLE_RANK,
) -> None:
    """Load the checkpoint that `find_resume_point` returned: `tensors` in place, and random state.

    Renames later checkpoints of `run`, as `move_later_aside` does. path, state: that checkpoint and
    its state. settings: as in `find_resume_point`. All ranks call this, and raise RunError if the
    checkpoint cannot be read or `settings` differ from its own.
    """
    ranks.on_each(lambda: require_same_settings(state["curve"], settings, path, run=run))
    load(path, tensors, ranks)
    try:
        set_random_state(state["random"], ranks)
    except RunError as error:
        raise RunError(f"{path}: {error}; {RESUME_ADVICE}") from error
    move_later_aside(run, state["step"], log, ranks)


def move_later_aside(run: Path, after: int, log: Log, ranks: Ranks = SINGLE_RANK) -> None:
    """Rename checkpoints later than step `after` to `aside-step-…`; log each. All ranks call this.

    They belong to an abandoned continuation of the run, which resumes from step `after`.
    """
    ranks.on_first(lambda: _move_later_aside(run, after, log))


def _move_later_aside(run: Path, after: int, log: Log) -> None:
    for step in steps(run):
        if step > after:
            path = checkpoint_path(run, step)
            aside = path.with_name(f"aside-{path.name}")
            count = 1
            while aside.exists() or aside.is_symlink():
                count += 1
                aside = path.with_name(f"aside-{path.name}-{count}")
            path.rename(aside)
            log(f"checkpoint {path.name} is later than step {after}: moved aside to {aside.name}")


def _flush_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        durable_files.flush(path)


def _remove_leftovers(directory: Path) -> None:
    for pattern in (".writing-*", ".deleting-*"):
        for path in directory.glob(pattern):
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a directory, a file in its place, or a symbolic link (not its target)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
