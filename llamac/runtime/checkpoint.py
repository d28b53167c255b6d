"""Checkpoints that survive anything: whole or absent, checked before use, never overwritten.

    RUN/checkpoints/step-00001000/
        tensors/        torch.distributed.checkpoint: model, exp_avg, exp_avg_sq, all fp32
        state.json      step, data position, random state, the spec values the curve depends on
        MANIFEST.json   size and sha256 of every file above

A checkpoint is written beside its place, flushed to disk and renamed into it, so a directory named
`step-…` was complete when it appeared; the manifest tells whether it still is. Deletion renames
first, for the same reason. What starts with a dot is unfinished business, safe to remove.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import warnings
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from .machine import RunError


@dataclass
class Progress:
    """How far a run is: the data it used up is `sequences`, skipped steps included."""

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From a checkpoint's state; an empty one is the beginning."""
        return cls(**{field.name: state.get(field.name, 0) for field in fields(cls)})

    @property
    def updates(self) -> int:
        """Steps that changed the weights."""
        return self.step - self.skipped_steps

    def count(self, sequences: int, tokens: int, skipped: bool) -> None:
        self.step += 1
        self.sequences += sequences
        self.tokens += tokens
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def give_up_after(self, limit: int) -> None:
        if self.skipped_in_a_row >= limit:
            raise RunError(
                f"loss or gradients were not finite in the last {self.skipped_in_a_row} steps, up "
                f"to step {self.step}, so none of them changed the weights: look at metrics.jsonl, "
                "then lower optimizer.lr, lengthen the warm-up or compute in fp32"
            )


Tensors = Mapping[str, Mapping[str, Tensor]]
Say = Callable[[str], None]


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold `run` for this process; the kernel lets go of it however the process ends."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunError(
                f"another trainer (process {holder}) is writing {run}: wait for it, stop it, "
                "or choose another --run DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def save(
    run: Path,
    tensors: Tensors,
    progress: Progress,
    curve: Mapping[str, Any],
    spec_sha256: str,
    keep: int,
) -> Path:
    """Write the checkpoint of a step, then delete all but the newest `keep`.

    Raises RunError if it cannot be written, and then frees what it took.
    `curve` holds the settings that a run must have kept in order to resume, see `find`.
    """
    state = asdict(progress) | {"spec_sha256": spec_sha256, "curve": dict(curve)}
    state["random"] = random_state()
    directory = run / "checkpoints"
    final = path_of(run, progress.step)
    temporary = directory / f".writing-{final.name}"
    _remove_leftovers(directory)
    try:
        _write(temporary, tensors, state)
        temporary.rename(final)
    except (OSError, RuntimeError, CheckpointException) as error:  # mostly a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"cannot save step {progress.step} in {directory}: {_cause(error)} "
            f"({shutil.disk_usage(run).free / 1e6:,.0f} MB free there): make room, then resume"
        ) from error
    _flush(directory)
    for old in steps(run)[:-keep]:
        path_of(run, old).rename(directory / f".deleting-{old}")
    _remove_leftovers(directory)
    return final


def _write(temporary: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Write all of a checkpoint into the new directory `temporary`, as far as the disk itself."""
    temporary.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "assuming the intent is to save in a single process"
        save_distributed(dict(tensors), checkpoint_id=temporary / "tensors", no_dist=True)
    (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    manifest = {
        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    }
    (temporary / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
    _flush_tree(temporary)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong, from inside the wrapping of distributed checkpoints."""
    if isinstance(error, CheckpointException):
        error = unwrapped(error)
    return (str(error).splitlines() or [type(error).__name__])[0]


def unwrapped(error: CheckpointException) -> BaseException:
    """What went wrong in a process that took part, the first of them."""
    return next((wrapped[0] for wrapped in error.failures.values()), error)


def load(path: Path, tensors: Tensors) -> dict[str, Any]:
    """Read a checkpoint into `tensors`, in place, and return its state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_distributed(dict(tensors), checkpoint_id=path / "tensors", no_dist=True)
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text())


def steps(run: Path) -> list[int]:
    """The steps that `run` has checkpoints of, oldest first."""
    names = (path.name for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(n[5:]) for n in names if n[5:].isdigit())


def path_of(run: Path, step: int) -> Path:
    """Where `run` keeps the checkpoint of a step, whether it has one or not."""
    return run / "checkpoints" / f"step-{step:08d}"


def newest_whole(run: Path, say: Say) -> Path | None:
    """The newest checkpoint of `run` whose checksums all hold, telling `say` of damaged ones."""
    own = steps(run)
    for step in reversed(own):
        path = path_of(run, step)
        problem = damage(path)
        if not problem:
            return path
        fall = ": falling back to the one before" if step != own[0] else ""
        say(f"checkpoint {path.name} is damaged ({problem}){fall}")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, or None if it has all its files, as written."""
    try:
        manifest = json.loads((path / "MANIFEST.json").read_text())
        for pattern in ("state.json", "tensors/.metadata", "tensors/*.distcp"):
            if not fnmatch.filter(manifest, pattern):
                return f"MANIFEST.json lists no {pattern}"
        for name, entry in manifest.items():
            file = path / name
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {entry['bytes']}"
            if _sha256(file) != entry["sha256"]:
                return f"{name} does not have the checksum it was written with"
        if not {"step", "curve", "random"} <= read_state(path).keys():
            return "state.json lacks what a checkpoint holds"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def find(
    run: Path, resume: str, curve: Mapping[str, Any], say: Say
) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from, with its state, or (None, {}) to start afresh.

    `resume` is "auto": the newest whole one of `run`; "never": none, and there must be none that
    would be overwritten; or a path: a checkpoint of this run, or, for a run without its own, of
    another one. Raises RunError if `curve` is not what the checkpoint was trained under.
    """
    _remove_leftovers(run / "checkpoints")
    path = _choose(run, resume, say)
    if path is None:
        return None, {}
    state = read_state(path)
    require_same_curve(state["curve"], curve, path)
    return path, state


def _choose(run: Path, resume: str, say: Say) -> Path | None:
    own = steps(run)
    if resume == "never":
        if own:
            raise RunError(
                f"{run} already has checkpoints, up to step {own[-1]}: continue it with "
                "--resume auto, choose another --run DIR, or move its checkpoints/ away first"
            )
        return None
    if resume != "auto":
        return _chosen(Path(resume).resolve(), run, bool(own))
    newest = newest_whole(run, say)
    if own and newest is None:
        raise RunError(
            f"no checkpoint of {run} is whole: restore one from a backup, choose another "
            "--run DIR, or move its checkpoints/ away to start again from step 0"
        )
    return newest


def _chosen(path: Path, run: Path, has_own: bool) -> Path:
    if has_own and path.parent != (run / "checkpoints").resolve():
        raise RunError(
            f"{path} is not a checkpoint of {run}, which has some of its own: "
            "choose another --run DIR"
        )
    if problem := damage(path):
        raise RunError(f"cannot resume from {path}: {problem}")
    return path


def set_aside(run: Path, after: int, say: Say) -> None:
    """Rename checkpoints beyond step `after`: the curve goes on from there without them."""
    for step in steps(run):
        if step > after:
            path = path_of(run, step)
            aside = path.with_name(f"aside-{path.name}")
            count = 1
            while aside.exists():
                count += 1
                aside = path.with_name(f"aside-{path.name}-{count}")
            path.rename(aside)
            say(f"checkpoint {path.name} lies beyond step {after}: set aside as {aside.name}")


def require_same_curve(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run under values that would bend its curve, naming each.

    Sections that `now` leaves out are not compared. Raises RunError.
    """
    old, new = _flat({section: saved.get(section) for section in now}), _flat(now)
    changed = [
        f"  {key}: {_show(old, key)} → {_show(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]
    if changed:
        raise RunError(
            f"{path} was trained under other settings than these:\n"
            + "\n".join(changed)
            + "\nset them back to go on, or start a new run with --run DIR"
        )


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def random_state() -> dict[str, str]:
    """torch's global generators, as text."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: b64encode(bytes(t.tolist())).decode() for name, t in state.items()}


def set_random_state(state: Mapping[str, str]) -> None:
    """Undo `random_state`, for the generators that this machine has."""
    restored = {n: torch.tensor(list(b64decode(s)), dtype=torch.uint8) for n, s in state.items()}
    torch.set_rng_state(restored["cpu"])
    if "cuda" in restored and torch.cuda.is_available():
        torch.cuda.set_rng_state(restored["cuda"])


_ABSENT = object()


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"model": {"dim": 8}} → {"model.dim": 8}, with tuples as the lists JSON makes of them."""
    if isinstance(values, Mapping) and values:
        items = [(f"{prefix}.{key}" if prefix else str(key), v) for key, v in values.items()]
    elif isinstance(values, list | tuple) and any(isinstance(v, Mapping) for v in values):
        items = [(f"{prefix}[{i}]", v) for i, v in enumerate(values)]
    else:
        return {prefix: list(values) if isinstance(values, tuple) else values}
    return {key: leaf for path, v in items for key, leaf in _flat(v, path).items()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        _flush(path)


def _remove_leftovers(directory: Path) -> None:
    for pattern in (".writing-*", ".deleting-*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path)
