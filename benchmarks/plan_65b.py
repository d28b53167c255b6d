"""What layouts of 65B on 2,048 A100-80GB reach, by the plan, beside what the paper's run did.

    python benchmarks/plan_65b.py [-o FILE.json]

The paper (Touvron et al. 2023, section 2.4 and table 15): 380 tokens/s/GPU, about 21 days,
1,022,362 GPU-hours for 1.4T tokens. Nothing here is fitted to that.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction
from llamac.plan.search.rank_layout import parse_layout
from llamac.plan.search.search import search
from llamac.plan.search.winner import search_json
from llamac.plan.target import device_for, setting_for
from llamac.spec import load_spec

PAPER = {"tokens_per_second_per_gpu": 380.0, "days": 20.8, "gpu_hours": 1_022_362.0}
GPUS = 2048
RESULTS = Path("benchmarks/results/plan_65b.json")
NAMED = ("tp8,dp256,mb8,selective", "tp8,dp256,mb1,selective", "tp8,pp4,dp64,mb1,selective")
"""The shipped spec's layout; with the smallest micro-batches; and a pipeline."""


def against(prediction: Prediction) -> dict[str, float]:
    """How many times the paper's figures."""
    ours = {
        "tokens_per_second_per_gpu": prediction.tokens_per_second_per_gpu,
        "days": prediction.days,
        "gpu_hours": prediction.gpu_hours,
    }
    return {key: round(value / PAPER[key], 3) for key, value in ours.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmarks/results/plan_65b.json")
    )
    output = parser.parse_args().output
    spec = load_spec("65b")
    setting = setting_for(spec, device_for(spec))
    start = time.perf_counter()
    found = search(setting, GPUS)
    seconds = time.perf_counter() - start
    results = search_json(found)
    for entry, one in zip(results["best"], found.best, strict=True):
        entry["times_the_paper"] = against(one.prediction)
    named = []
    for text in NAMED:
        changes = parse_layout(text, spec, GPUS).changes(spec)
        prediction = predict(replace(setting, spec=spec.replace(changes)))
        entry = {"layout": text, **prediction.to_json(), "times_the_paper": against(prediction)}
        named.append(entry)
    whole = {"paper": PAPER, **results, "named": named}
    output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for entry in (*results["best"], *named):
        rate, ratio = entry["tokens_per_second_per_gpu"], entry["times_the_paper"]
        days = entry["run"]["days"]
        times = ratio["tokens_per_second_per_gpu"]
        print(f"{entry['layout']:<44} {rate:5.0f} tokens/s/GPU {days:5.1f} days  x{times:.2f}")
    print(f"searched {found.legal:,} layouts in {seconds:.1f} s")


if __name__ == "__main__":
    main()
