"""Pairs of a right and a wrong answer, from questions that `llamac data questions` wrote.

    python benchmarks/preference_pairs.py questions.jsonl pairs.jsonl

Each wrong choice gives a record of prompt, chosen and rejected, as messages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def records(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record for each wrong choice; a task's "Question:" and "Answer:" are left out."""
    right, gold = question["choices"][question["gold"]].strip(), question["gold"]
    asked = question["prompts"][gold].removeprefix("Question:").removesuffix("Answer:").strip()
    wrong = [choice.strip() for choice in question["choices"] if choice.strip() != right]
    return [
        {
            "prompt": [{"role": "user", "content": asked}],
            "chosen": [{"role": "assistant", "content": right}],
            "rejected": [{"role": "assistant", "content": answer}],
        }
        for answer in wrong
    ]


def main() -> None:
    questions, pairs = map(Path, sys.argv[1:])
    lines = questions.read_text(encoding="utf-8").splitlines()
    found = [record for line in lines for record in records(json.loads(line))]
    pairs.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in found))
    print(f"wrote {len(found):,} pairs of {len(lines):,} questions to {pairs}")


if __name__ == "__main__":
    main()
