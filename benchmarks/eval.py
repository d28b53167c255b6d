"""Evaluation speed and agreement: llamac's adapter beside lm-evaluation-harness' own HF model.

    llamac import MODEL -o smol.toml && llamac export smol -o smol-hf
    python benchmarks/eval.py smol smol-hf --data QUESTIONS --tasks piqa,boolq [--limit N]

Both answer the same requests, one after the other, on this machine. A task's ratio is HF's seconds
over ours; loading is not counted. Every metric must agree to the last printed digit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lm_eval.models.huggingface import HFLM

from llamac.evaluate.adapter import Adapter
from llamac.evaluate.judge import evaluate_task
from llamac.evaluate.loaded_model import open_for_evaluation
from llamac.evaluate.question_files import load_questions
from llamac.evaluate.tasks.known_tasks import TASKS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("exported", type=Path, help="the same model, as `llamac export` wrote it")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="piqa,boolq")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--shots", type=int, default=None)
    parser.add_argument("--batch", type=int, default=8, help="HF's sequences in one batch")
    parser.add_argument("--processor", action="store_true", help="count processor time: a busy CPU")
    parser.add_argument("--context", type=int, default=2048)
    args = parser.parse_args()

    clock = time.process_time if args.processor else time.perf_counter
    import lm_eval.evaluator  # noqa: F401  # imported before the clock starts

    ours = open_for_evaluation(args.run, "newest", print, args.context)
    dtype = next(iter(ours.make(1, 1).model.parameters())).dtype
    make: Any = HFLM
    theirs = make(
        pretrained=str(args.exported),
        batch_size=args.batch,
        dtype=dtype,
        device=str(ours.device),
        max_length=args.context,
    )
    print(f"{torch.get_num_threads()} threads, {dtype}, HF's batch {args.batch}")
    agreed, seconds = True, [0.0, 0.0]
    for name in args.tasks.split(","):
        questions = load_questions(TASKS[name], args.data, {})
        shots = questions.task.shots if args.shots is None else args.shots
        found = []
        for number, lm in enumerate((Adapter(ours), theirs)):
            began = clock()
            found.append(evaluate_task(lm, questions, shots, limit=args.limit))
            seconds[number] += (took := clock() - began)
            found.append(took)
        mine, mine_took, other, other_took = found
        shown = [
            {metric: f"{value:.6f} ± {error or 0:.6f}" for metric, (value, error) in one.items()}
            for one in (mine.results, other.results)
        ]
        same = shown[0] == shown[1]
        agreed &= same
        print(
            f"{name}: {mine.questions} questions, {shots} shots, ours {mine_took:.1f} s, HF "
            f"{other_took:.1f} s, ratio {other_took / mine_took:.2f}, "
            f"{'equal' if same else 'DIFFERENT'}: {shown[0]}" + ("" if same else f" / {shown[1]}"),
            flush=True,
        )
    print(f"all: ours {seconds[0]:.1f} s, HF {seconds[1]:.1f} s, {seconds[1] / seconds[0]:.2f} ×")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
