"""Stages of cleaning, tokenization and a whole preparation, beside datatrove on the same text.

    python benchmarks/data.py TEXTS.jsonl --peer PYTHON --tokenizer MODEL JSON
        [--rounds 5] [--every 1]

TEXTS has a document a line, `text` its text. PYTHON runs datatrove: an environment of its own with
`datatrove spacy fasttext-numpy2-wheel fasteners tokenizers orjson 'xxhash<4'`. MODEL and JSON are
one BPE vocabulary, as SentencePiece and as tokenizers have it.

How each figure is taken:
- A contestant is a process of its own, one thread, with the documents in memory; the CPU seconds of
  the task itself are counted, so that what else the machine does matters little. They take turns;
  a ratio is the median over rounds of the ratios within a round, with the lowest and the highest.
- `pipeline` reads a file and writes tokens: language, lines, near-duplicates, tokenization; all
  CPU seconds of the process and of those it starts, imports among them.
- Both identify languages with the same model; `language` lets llamac's look at 5,000 characters of
  a text, its default, `language_whole` at all of it, as datatrove does.
- Both drop repeated lines but for the first, and near-duplicates by 5-grams of words: llamac with
  128 values in 18 bands at 0.8, datatrove with its own 14 buckets of 8, words by spaCy's rules.
- Memory is the largest process of a whole preparation, of the texts and of 10 and 20 times as many:
  the copies have other words in every fourth place, so that lines and 5-grams differ. It grows
  until the files fill a part, which is 256 MB of them, and no further.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/data.json"
TASKS = ("language", "language_whole", "c4", "line_dedup", "near_dedup", "tokenize", "pipeline")
THREADS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
TIMES = (1, 10, 20)


# --- One contestant ------------------------------------------------------------------------


def contestant(task: str, texts: Path, folder: Path, model: str) -> dict[str, Any]:
    """What llamac does of a task: bytes of text, CPU seconds, documents kept."""
    from llamac.spec import stages

    if task == "pipeline":
        return prepared([texts], folder, model)
    held = [json.loads(line)["text"] for line in texts.open(encoding="utf-8")]
    sections = {
        "language": stages.Language(),
        "language_whole": stages.Language(max_chars=2**31 - 1),
        "c4": stages.C4(),
        "line_dedup": stages.LineDedup(keep="first", min_chars=0),
        "near_dedup": stages.NearDedup(),
    }
    run: Callable[[], int] = (
        (lambda: tokenized(held, folder, model))
        if task == "tokenize"
        else (lambda: judged(sections[task], held, folder))
    )
    began = time.process_time()
    kept = run()
    size = sum(len(text.encode()) for text in held)
    return {"bytes": size, "cpu": time.process_time() - began, "kept": kept}


def judged(section: Any, texts: list[str], folder: Path) -> int:
    from llamac.data.document import Document
    from llamac.data.stages import build

    def documents() -> Iterator[Document]:
        return (Document(text, "texts", line) for line, text in enumerate(texts, start=1))

    stage = build(section)
    if not callable(stage):
        stage.scan(documents(), folder / "found")
        stage.merge([folder / "found"], folder / "decided")
        stage = stage.judge(folder / "decided", 0)
    return sum(isinstance(stage(document), Document) for document in documents())


def tokenized(texts: list[str], folder: Path, model: str) -> int:
    """Tokens and document ends in files, as a preparation writes them."""
    import numpy as np

    from llamac.runtime.data.token_shards import BATCH_BYTES
    from llamac.runtime.tokenizers.loading import load_tokenizer_file

    tokenizer, ends, batch, size = load_tokenizer_file(model), [0], [], 0
    with open(folder / "tokens", "wb") as file:
        for number, text in enumerate(texts, start=1):
            batch.append(text)
            size += len(text)
            if size < BATCH_BYTES and number < len(texts):
                continue
            for tokens in tokenizer.encode_batch(batch):
                file.write(np.append(tokens, tokenizer.eos).astype("<u2").tobytes())
                ends.append(ends[-1] + len(tokens) + 1)
            batch, size = [], 0
    np.array(ends, "<u8").tofile(folder / "ends")
    return 0


def prepared(texts: Iterable[Path], folder: Path, model: str) -> dict[str, Any]:
    """`llamac data prepare` of one process over the texts."""
    paths = list(texts)
    spec = folder / "spec.toml"
    spec.write_text(
        f"""
extends = "tiny"
[model]
vocab_size = 8_000
[tokenizer]
path = "{model}"
[data]
directory = "{folder}/prepared"
[[data.source]]
name = "web"
kind = "files"
share = 1
paths = {json.dumps([str(path) for path in paths])}
[[data.source.stage]]
stage = "language"
[[data.source.stage]]
stage = "line_dedup"
keep = "first"
min_chars = 0
[[data.source.stage]]
stage = "near_dedup"
"""
    )
    command = [sys.executable, "-m", "llamac.cli", "data", "prepare", str(spec), "--workers", "1"]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime
    manifest = json.loads((folder / "prepared/manifest.json").read_text())
    size = sum(
        len(json.loads(line)["text"].encode())
        for path in paths
        for line in path.open(encoding="utf-8")
    )
    source = manifest["sources"][0]
    kept = source["train"]["documents"] + source["validation"]["documents"]
    return {"bytes": size, "cpu": cpu, "kept": kept, "peak": used.ru_maxrss * 1024}


# --- All of them ---------------------------------------------------------------------------


def raced(arguments: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = arguments.tokenizer
    results = {}
    for task in arguments.tasks:
        rounds: dict[str, list[dict[str, Any]]] = {"llamac": [], "datatrove": []}
        for number in range(arguments.rounds):
            for name in sorted(rounds, reverse=number % 2 == 0):
                with tempfile.TemporaryDirectory() as folder:
                    run = _llamac if name == "llamac" else _datatrove
                    rounds[name].append(run(task, arguments, folder, model, tokenizer))
        speeds = {
            name: [each["bytes"] / each["cpu"] / 1e6 for each in taken]
            for name, taken in rounds.items()
        }
        ratios = [a / b for a, b in zip(speeds["llamac"], speeds["datatrove"], strict=True)]
        results[task] = {
            "llamac_mb_per_cpu_second": round(statistics.median(speeds["llamac"]), 2),
            "datatrove_mb_per_cpu_second": round(statistics.median(speeds["datatrove"]), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_lowest_highest": [round(min(ratios), 2), round(max(ratios), 2)],
            "kept": {name: taken[0]["kept"] for name, taken in rounds.items()},
        }
        print(task, json.dumps(results[task]), flush=True)
    return results


def _llamac(task: str, arguments: Any, folder: str, model: str, _: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(arguments.texts), "--one", task, "--folder", folder]
    return _said([*command, "--tokenizer", model, model])


def _datatrove(task: str, arguments: Any, folder: str, _: str, tokenizer: str) -> dict[str, Any]:
    from llamac.data.stages.language import model_file
    from llamac.spec.stages import Language

    known = task.removesuffix("_whole")
    script = str(ROOT / "benchmarks/data_peer.py")
    command = [arguments.peer, script, known, str(arguments.texts), folder]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = _said([*command, model_file(Language()), tokenizer])
    if task == "pipeline":
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        said["cpu"] = used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime
    return said


def _said(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | THREADS, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def memory(texts: Path, model: str) -> dict[str, Any]:
    """Peak of the largest process that prepares the texts, and ten times as many."""
    results = {}
    with tempfile.TemporaryDirectory() as root:
        paths = []
        for copy in range(max(TIMES)):
            paths.append(Path(root) / f"{copy}.jsonl")
            with paths[-1].open("w", encoding="utf-8") as file:
                for line in texts.open(encoding="utf-8"):
                    text = varied(json.loads(line)["text"], copy)
                    file.write(json.dumps({"text": text}) + "\n")
        for count in TIMES:
            folder = Path(root) / f"prepared{count}"
            folder.mkdir()
            command = [sys.executable, __file__, str(paths[0]), "--one", "pipeline"]
            command += ["--folder", str(folder), "--tokenizer", model, model]
            said = _said([*command, "--more", *map(str, paths[1:count])])
            results[f"{count}x"] = {
                "text_mb": round(said["bytes"] / 1e6, 1),
                "peak_mb": round(said["peak"] / 1e6, 1),
                "documents_kept": said["kept"],
            }
            print(count, json.dumps(results[f"{count}x"]), flush=True)
    return results


def varied(text: str, copy: int) -> str:
    """The text with every fourth word another one, for copies but the first."""
    if not copy:
        return text
    number = iter(range(len(text)))
    ending = string.ascii_lowercase[copy]
    return re.sub(r"\w+", lambda w: w[0] if next(number) % 4 else w[0] + ending, text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--tokenizer", nargs=2, required=True, metavar=("MODEL", "JSON"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="race on each n-th document only")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--one", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--more", nargs="*", type=Path, default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.tokenizer[0]
    if arguments.one == "pipeline":
        print(json.dumps(prepared([arguments.texts, *arguments.more], arguments.folder, model)))
    elif arguments.one:
        said = contestant(arguments.one, arguments.texts, arguments.folder, model)
        print(json.dumps(said))
    else:
        _measure(arguments, model)


def _measure(arguments: argparse.Namespace, model: str) -> None:
    from train_cpu import machine

    content = arguments.texts.read_bytes()
    asked = "import importlib.metadata as m; print(m.version('datatrove'))"
    peer = subprocess.run([arguments.peer, "-c", asked], capture_output=True, text=True, check=True)
    results = {
        "machine": machine(),
        "datatrove": peer.stdout.strip(),
        "rounds": arguments.rounds,
        "texts": {
            "documents": content.count(b"\n"),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "raced_on_every": arguments.every,
    }
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "texts.jsonl"
        with some.open("wb") as file:
            file.writelines(content.splitlines(keepends=True)[:: arguments.every])
        results["memory"] = memory(arguments.texts, model)
        arguments.texts = some
        results["speed"] = raced(arguments)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
