"""Fits links to measured collectives: `python benchmarks/plan_network.py DIR`.

DIR holds `collectives.csv`: bus bandwidth of collectives by number of GPUs, nodes and bytes. For
each cluster, the figures of [link] and [network] that `collective_seconds` comes nearest with (mean
|log(predicted / measured)|), and how sure each is: the range in which that error stays within a
tenth of its least, the others held. They are then written by hand, rounded, into the device files.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from llamac.plan.cost.collective import bus_bandwidth
from llamac.plan.device.device import Device, load_device

RESULT = Path(__file__).parent / "results" / "plan_network.json"
CLUSTERS = {"A100": "a100-80gb", "H100": "h100-efa"}
WITHIN = ("link.bandwidth", "link.latency")
BETWEEN = ("network.bandwidth", "network.hop", "network.tree")

Row = Mapping[str, str]


def changed(device: Device, key: str, value: float) -> Device:
    part, name = key.split(".")
    return replace(device, **{part: replace(getattr(device, part), **{name: value})})


def predicted(device: Device, row: Row) -> float:
    """GB/s."""
    rounds = 2 if row["collective"] == "all_reduce" else 1
    ranks, nbytes = int(row["n_gpus"]), float(row["bytes"])
    return bus_bandwidth(device, nbytes, ranks, rounds) / 1e9


def error(device: Device, rows: Sequence[Row]) -> float:
    found = [math.log(predicted(device, row) / float(row["busbw_GBps"])) for row in rows]
    return mean(map(abs, found))


def value(device: Device, key: str) -> float:
    part, name = key.split(".")
    return getattr(getattr(device, part), name)


def fitted(device: Device, rows: Sequence[Row], keys: Sequence[str]) -> Device:
    """Coordinate search over the links' figures."""
    step = 0.5
    while step > 0.005:
        least, better = error(device, rows), False
        for key in keys:
            for factor in (1 + step, 1 / (1 + step)):
                other = changed(device, key, value(device, key) * factor)
                if error(other, rows) < least:
                    device, least, better = other, error(other, rows), True
        step = step if better else step / 2
    return device


def sure(device: Device, rows: Sequence[Row], key: str) -> list[float]:
    """The range of a figure in which the error stays within a tenth of its least."""
    least, ends = error(device, rows), []
    for grow in (1 / 1.02, 1.02):
        factor = 1.0
        while 0.1 < factor < 10:
            other = changed(device, key, value(device, key) * factor * grow)
            if error(other, rows) > 1.1 * least:
                break
            factor *= grow
        ends.append(float(f"{value(device, key) * factor:.3g}"))
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=RESULT)
    given = parser.parse_args()
    by_cluster: dict[str, list[Row]] = defaultdict(list)
    with (given.directory / "collectives.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["busbw_GBps"]:
                by_cluster[row["hw"][:4]].append(row)
    found: dict[str, Any] = {}
    for cluster, rows in by_cluster.items():
        shipped = load_device(CLUSTERS[cluster])
        nodes = sorted({int(row["nodes"]) for row in rows})
        keys = BETWEEN if len(nodes) > 1 else WITHIN
        device = fitted(shipped, rows, keys)
        found[cluster] = {
            "rows": len(rows),
            "nodes": nodes,
            "error_shipped": round(error(shipped, rows), 3),
            "error_fitted": round(error(device, rows), 3),
            "fitted": {
                key: {"value": float(f"{value(device, key):.3g}"), "sure": sure(device, rows, key)}
                for key in keys
            },
            "bus_bandwidth_GBps": [
                {
                    "collective": row["collective"],
                    "nodes": int(row["nodes"]),
                    "bytes": int(float(row["bytes"])),
                    "measured": float(row["busbw_GBps"]),
                    "predicted": round(predicted(shipped, row), 1),
                }
                for row in rows
                if int(row["nodes"]) > 1
            ],
        }
        print(cluster, json.dumps({k: v for k, v in found[cluster].items() if k[0] != "b"}))
        for one in found[cluster]["bus_bandwidth_GBps"]:
            print("  ", *one.values())
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
