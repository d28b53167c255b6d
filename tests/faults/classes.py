"""The classes of faults. Each takes a subject and a number of trials, and yields outcomes.

Every outcome is "same" (the very weights of a run that nothing disturbed), "error" (one that names
the file, or its directory, and a way out), or what went wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from llamac.runtime.checkpoint.integrity import manifest_entries
from llamac.runtime.errors import RunError
from tests.data import preparing
from tests.data.test_restart import dies_at_a_rename
from tests.faults.run import Ended, Subject, after, at_event, in_child, kill, weights
from tests.faults.values import edits

WAYS_OUT = ("-o", "--overwrite", "--run", "delete", "rm -r", "remove", "restore", "build", "again")
WAYS_OUT += ("make room",)


class Tried:
    """A subject with an undisturbed run to compare with, and one that is stopped halfway."""

    def __init__(self, root: Path, *changes: str) -> None:
        self.root, self.subject = root, Subject(root / "subject", *changes)
        self.dice = random.Random(1)
        straight = root / "straight"
        self.whole = self.subject.start(straight)
        assert self.whole.code == 0, self.whole.said
        self.weights = weights(straight)
        self.halfway = root / "halfway"
        assert self.subject.start(self.halfway, "--steps", "8").code == 0
        self.straight = straight

    def fresh(self, of: Path | None = None) -> Path:
        """A place for a run: empty, or as `of`."""
        run = self.root / "trial" / "run"
        if run.parent.exists():
            shutil.rmtree(run.parent)
        run.parent.mkdir()
        if of:
            shutil.copytree(of, run, symlinks=True)
        return run

    def judged(self, run: Path, ended: Ended, names: str = "") -> str:
        """names: the file that an error must name, relative to the run; "": any."""
        if ended.crashed or ended.code not in (0, 1, 2):
            return f"exit code {ended.code}: {ended.said[-2000:]}"
        if ended.code == 0:
            return "same" if weights(run) == self.weights else "trained something else"
        known = not names or any(part in ended.said for part in Path(names).parts)
        if known and any(way in ended.said for way in WAYS_OUT):
            return "error"
        return f"an error without the file or a way out: {ended.said[-500:]}"

    def chosen(self, items: list, trials: int) -> list:
        """At most so many of them, spread over all."""
        step = max(1, -(-len(items) // trials))
        return items[self.dice.randrange(step) :: step] if step > 1 else items


def killed_at_events(tried: Tried, trials: int) -> Iterator[str]:
    """Killed with -9 at file events of a first start: build, preparation, packing, training."""
    run, counted = tried.fresh(), tried.root / "events"

    def count() -> None:
        with open(counted, "ab", buffering=0) as file:
            file.write(b".")

    def each() -> None:
        sys.addaudithook(lambda event, args: _count(event, args, run, count))

    tried.subject.start(run, before=each)
    events = list(range(counted.stat().st_size))
    for event in tried.chosen(events, trials):
        run = tried.fresh()
        died = tried.subject.start(run, before=at_event(run, event, kill))
        again = tried.subject.start(run)
        yield tried.judged(run, again) if died.code == -signal.SIGKILL else f"lived: {died.code}"


def _count(event: str, arguments: tuple, run: Path, count: Callable[[], None]) -> None:
    from tests.faults.run import EVENTS

    if event == "fcntl.flock" or (event in EVENTS and str(run) in str(arguments[0])):
        count()


def killed_at_random(tried: Tried, trials: int) -> Iterator[str]:
    """Killed with -9 at random times, three times in a row."""
    for _ in range(trials):
        run = tried.fresh()
        for _ in range(3):
            tried.subject.start(run, before=after(tried.dice.uniform(0, 2.5), signal.SIGKILL))
        yield tried.judged(run, tried.subject.start(run))


def signalled(tried: Tried, trials: int) -> Iterator[str]:
    """SIGTERM or SIGINT at random times; what was said to be saved is gone on from."""
    for trial in range(trials):
        run, number = tried.fresh(), (signal.SIGTERM, signal.SIGINT)[trial % 2]
        first = tried.subject.start(run, before=after(tried.dice.uniform(0, 2.5), number))
        if first.crashed or first.code not in (0, 130, -number):
            yield f"exit code {first.code}: {first.said[-2000:]}"
            continue
        yield tried.judged(run, tried.subject.start(run))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 1 << (len(data) % 8)
    path.write_bytes(data)


def replaced_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"x")


def replaced_by_another(path: Path) -> None:
    """By the whole bytes of the next file of its directory that has others."""
    data = path.read_bytes()
    others = (p.read_bytes() for p in sorted(path.parent.iterdir()) if p.is_file())
    path.write_bytes(next((other for other in others if other != data), data[::-1]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zero": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "delete": Path.unlink,
    "nonsense": lambda path: path.write_bytes(b"[" * 100_000),
    "directory": replaced_by_directory,
    "another": replaced_by_another,
}
OF_DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "delete": shutil.rmtree,
    "file": replaced_by_file,
}


def damaged(tried: Tried, trials: int) -> Iterator[str]:
    """Every file and directory of a run that stopped halfway, damaged in each way, and the run
    gone on with."""
    pairs = [
        (path.relative_to(tried.halfway), kind)
        for path in sorted(tried.halfway.rglob("*"))
        if path.is_dir() or path.stat().st_size
        for kind in (OF_DIRECTORIES if path.is_dir() else DAMAGE)
    ]
    for file, kind in tried.chosen(pairs, trials):
        run = tried.fresh(tried.halfway)
        (OF_DIRECTORIES if (run / file).is_dir() else DAMAGE)[kind](run / file)
        outcome = tried.judged(run, tried.subject.start(run), str(file))
        yield outcome if outcome in ("same", "error") else f"{kind} of {file}: {outcome}"


def wrong_values(tried: Tried, trials: int) -> Iterator[str]:
    """Values that make no sense, in files whose hashes are right."""
    for what, file, edit in tried.chosen(list(edits()), trials):
        run = tried.fresh(tried.halfway)
        edit(run)
        outcome = tried.judged(run, tried.subject.start(run), file)
        yield outcome if outcome in ("same", "error") else f"{what}: {outcome}"


def full_disk(tried: Tried, trials: int) -> Iterator[str]:
    """A disk of its own, too small by any amount; then it grows. Needs the right to mount."""
    size = sum(p.stat().st_size for p in tried.straight.rglob("*") if p.is_file()) * 3
    for part in range(1, trials + 1):
        run = tried.fresh()
        run.mkdir()
        small = max(16, size * part // (trials + 1) // 1024)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={small}k", "faults", str(run)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return
        try:
            inner = run / "run"
            first = tried.subject.start(inner)
            if first.code and "No space left" not in first.said:
                yield f"{small} kB: exit code {first.code}: {first.said[-2000:]}"
                continue
            if first.crashed:
                yield f"{small} kB: {first.said[-2000:]}"
                continue
            subprocess.run(["mount", "-o", "remount,size=1G", str(run)], check=True)
            yield tried.judged(inner, tried.subject.start(inner))
        finally:
            subprocess.run(["umount", str(run)], check=True)


# -- hostile directories ---------------------------------------------------------------------------


def _contents(root: Path) -> dict[str, str]:
    return {
        str(p): "directory" if p.is_dir() else hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
    }


def links(tried: Tried, trials: int) -> Iterator[str]:
    """Every file and directory of a run replaced by a link to the same of another one: nothing of
    the other one may change, by a start or by a build that gives up what is there."""
    found = [path.relative_to(tried.halfway) for path in sorted(tried.halfway.rglob("*"))]
    for name in tried.chosen(found, trials):
        run = tried.fresh(tried.halfway)
        victim = run.parent / "victim"
        shutil.copytree(tried.halfway, victim)
        before = _contents(victim)
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        else:
            (run / name).unlink()
        (run / name).symlink_to(victim / name)
        outcome = tried.judged(run, tried.subject.start(run), str(name))
        changed = sorted(set(before.items()) ^ set(_contents(victim).items()))
        if changed:
            outcome = f"changed {changed[0][0]}"
        yield outcome if outcome in ("same", "error") else f"link {name}: {outcome}"


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def checkpoints_with_code(tried: Tried, trials: int) -> Iterator[str]:
    """A stranger's checkpoint whose files are pickles that run code, its hashes right."""
    import pickle

    import torch

    ran = tried.root / "code-ran"
    for trial in range(trials):
        run = tried.fresh(tried.halfway)
        newest = max((run / "checkpoints").glob("step-*"))
        stranger = run.parent / "stranger"
        shutil.move(newest, stranger)
        shutil.rmtree(run / "checkpoints")
        if trial % 2:
            protocol = trial % (pickle.HIGHEST_PROTOCOL + 1)
            (stranger / "tensors/.metadata").write_bytes(pickle.dumps(_Code(ran), protocol))
        else:
            torch.save(_Code(ran), next((stranger / "tensors").glob("*.distcp")))
        files = [p for p in stranger.rglob("*") if p.is_file() and p.name != "MANIFEST.json"]
        (stranger / "MANIFEST.json").write_text(json.dumps(manifest_entries(files, stranger)))
        ended = tried.subject.start(run, "--resume", str(stranger))
        if ran.exists():
            ran.rmdir()
            yield "its code was run"
        elif ended.code == 1 and not ended.crashed and "stranger cannot be read" in ended.said:
            yield "error"
        else:
            yield f"exit code {ended.code}: {ended.said[-500:]}"


def directories_with_code(tried: Tried, trials: int) -> Iterator[str]:
    """A stranger's directory, its hashes right, with code in place of ours or of a library's:
    `generate` and `train` run none of it."""
    ran = tried.root / "code-ran"
    code = f"import os\nos.path.exists({str(ran)!r}) or os.mkdir({str(ran)!r})\n"
    names = ["generate.py", "model.py", "runtime/machine.py", "runtime/__init__.py", "torch.py"]
    names += ["json/__init__.py", "model/__init__.py", "runtime/errors/__init__.py", "argparse.py"]
    for name in names[:trials]:
        run = tried.fresh(tried.halfway)
        (run / name).parent.mkdir(exist_ok=True)
        old = (run / name).read_text() if (run / name).exists() else ""
        first, future, rest = old.partition("from __future__ import annotations\n")
        (run / name).write_text(f"{first}{future}{code}{rest}")
        manifest = json.loads((run / "MANIFEST.json").read_text())
        digest = hashlib.sha256((run / name).read_bytes()).hexdigest()
        (run / "MANIFEST.json").write_text(
            json.dumps(manifest | {"sha256": manifest["sha256"] | {name: digest}})
        )
        verb = [sys.executable, "-m", "llamac.cli", "generate", str(run), "--prompt", "x"]
        done = subprocess.run(verb, capture_output=True, text=True, check=False)
        started = tried.subject.start(run)
        if ran.exists():
            ran.rmdir()
            yield f"{name}: its code was run"
        elif done.returncode not in (0, 2) or "Traceback" in done.stderr:
            yield f"{name}: generate exited with {done.returncode}: {done.stderr[-500:]}"
        else:
            yield tried.judged(run, started)


# -- beyond one process ----------------------------------------------------------------------------


def damaged_preparation(tried: Tried, trials: int) -> Iterator[str]:
    """`llamac data prepare` killed at some rename, one of its files damaged, and gone on with."""
    corpus = tried.root / "corpus"
    if not corpus.exists():
        preparing.write_corpus(corpus / "web", files=2)
    spec, log = preparing.write_spec(corpus), tried.root / "log"
    whole = tried.fresh()
    in_child(lambda: _prepare(spec, whole), log)
    wanted = _shards(whole)
    for trial in range(trials):
        root, number = tried.fresh(), tried.dice.randrange(5, 95)
        if not dies_at_a_rename(spec, root, number, after=bool(trial % 2)):
            continue
        files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.stat().st_size]
        file, kind = tried.dice.choice(files), tried.dice.choice(list(DAMAGE))
        DAMAGE[kind](file)
        ended = in_child(lambda root=root: _prepare(spec, root), log)
        known = str(root) in ended.said and any(way in ended.said for way in WAYS_OUT)
        if ended.code == 0 and _shards(root) == wanted:
            yield "same"
        elif ended.code == 1 and not ended.crashed and known:
            yield "error"
        else:
            yield f"{kind} of {file}: exit code {ended.code}: {ended.said[-1500:]}"


def _prepare(spec: Path, root: Path) -> int:
    try:
        preparing.prepared(spec, root)
        return 0
    except (RunError, OSError) as error:
        print(error)
        return 1


def _shards(root: Path) -> dict[str, str]:
    found = preparing.hashes(root).items()
    return {name: digest for name, digest in found if not name.startswith(".work")}


def torchrun_killed(tried: Tried, trials: int) -> Iterator[str]:
    """kill -9 of torchrun's agent over two ranks: they save and stop, and the run goes on."""
    two = Subject(tried.root / "two", "parallel.data_shard=2", "schedule.steps=400")
    straight = tried.root / "two" / "straight"
    two.build(straight)
    subprocess.run(torchrun(straight), check=True, capture_output=True)
    for _ in range(trials):
        run = tried.fresh()
        two.build(run)
        log = open(tried.root / "log", "w")  # noqa: SIM115
        agent = subprocess.Popen(torchrun(run), stdout=log, stderr=log, start_new_session=True)
        reached = tried.dice.randrange(5, 150)
        while len(rows(run)) < reached and agent.poll() is None:
            time.sleep(0.01)
        agent.kill()
        agent.wait()
        deadline = time.monotonic() + 60
        while (left := processes_of(run)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            os.kill(process, signal.SIGKILL)
        saved = len(rows(run))
        if left:
            yield f"ranks {left} train on"
        elif not (run / f"checkpoints/step-{saved:08d}").is_dir():
            yield f"step {saved} was not saved"
        else:
            done = subprocess.run(torchrun(run), check=False, capture_output=True, text=True)
            same = done.returncode == 0 and rows(run) == rows(straight)
            yield "same" if same else f"exit code {done.returncode}: {done.stderr[-500:]}"


def torchrun(run: Path) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*start, "--", str(run / "train.py")]


def rows(run: Path) -> list[tuple]:
    with suppress(OSError):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["loss"]) for row in map(json.loads, lines)]
    return []


def processes_of(run: Path) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(run / "train.py") in command.read_text(errors="replace"):
                found.append(int(command.parent.name))
    return found


CLASSES: dict[str, Callable[[Tried, int], Iterator[str]]] = {
    "killed at a file event": killed_at_events,
    "killed at random, three times": killed_at_random,
    "stopped by a signal": signalled,
    "a damaged file of a run": damaged,
    "values that make no sense": wrong_values,
    "a full disk": full_disk,
    "links out of a run": links,
    "a checkpoint with code": checkpoints_with_code,
    "a directory with code": directories_with_code,
    "a damaged file of data prepare": damaged_preparation,
    "torchrun killed": torchrun_killed,
}
