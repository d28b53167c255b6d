"""A small corpus, a spec of it, and its preparation in steps small enough to be interrupted."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from llamac.data import executor
from llamac.data.prepare import Preparation, plan_preparation, prepare
from llamac.data.source_plan import PartSizes
from llamac.spec import load_spec

SMALL = PartSizes(part=20_000, chunk=6_000)
STAGES = """
[[data.source.stage]]
stage = "length"
min_chars = 12
[[data.source.stage]]
stage = "exact_dedup"
[[data.source.stage]]
stage = "length"
max_chars = 2000
[[data.source.stage]]
stage = "line_dedup"
keep = "first"
min_chars = 20
"""


def write_corpus(folder: Path, files: int = 6, documents: int = 40) -> None:
    """Short and long documents, some of them several times, with lines that recur."""
    dice, menu = random.Random(7), "home | about | contact"
    words = [f"{a}{b}" for a in ("wa", "ter", "mi", "lo") for b in ("ne", "sa", "ru", "ko")]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        with (folder / f"{number}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(documents):
                count = dice.choice([0, 4, 20, 60])
                lines = [" ".join(dice.choices(words, k=9)) for _ in range(count)]
                text = "\n".join([menu, *lines]) if dice.random() < 0.8 else "one and the same text"
                file.write(json.dumps({"text": text, "url": f"page-{number}"}) + "\n")


def write_spec(folder: Path, stages: str = STAGES, more: str = "") -> Path:
    spec = folder / "mix.toml"
    spec.write_text(
        f"""
extends = "tiny"
[model]
vocab_size = 320
[tokenizer]
train_bytes = 30_000
[data]
directory = "{folder}/prepared"
validation = 0.1
shard_tokens = 1_000
[[data.source]]
name = "web"
kind = "files"
share = 3
paths = ["{folder}/web/*.jsonl"]
{stages}
[[data.source]]
name = "notes"
kind = "files"
share = 1
paths = ["{folder}/web/0.jsonl", "{folder}/web/1.jsonl"]
max_bytes = 10_000
{more}
""",
        encoding="utf-8",
    )
    return spec


def preparation(
    spec: Path, directory: Path, *overrides: str, sizes: PartSizes = SMALL
) -> Preparation:
    return plan_preparation(load_spec(spec, overrides), directory, sizes)


def prepared(
    spec: Path, directory: Path, *overrides: str, sizes: PartSizes = SMALL, workers: int = 1
) -> dict[str, Any]:
    plan = preparation(spec, directory, *overrides, sizes=sizes)
    with executor.process_engine(workers) as engine:
        return prepare(plan, engine, lambda step, done, size: None)


def hashes(root: Path) -> dict[str, str]:
    """Of all files there, but for locks and for times of change."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".prepare.lock", ".verified.json")
    }


if __name__ == "__main__":  # what a test starts and kills
    prepared(Path(sys.argv[1]), Path(sys.argv[2]), workers=2)
