"""Measurements of a GPU, rehearsed on the CPU, and their arithmetic against figures by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu.kill_and_resume import differing  # noqa: E402  # pyright: ignore[reportMissingImports]
from gpu.state import summary  # noqa: E402  # pyright: ignore[reportMissingImports]
from gpu.step_profile import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    Kernel,
    analysed,
    kind_of,
    outermost,
)
from train_gpu import disagreeing, ratios  # noqa: E402  # pyright: ignore[reportMissingImports]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_parts_of_the_gpu_script_run_on_the_cpu(tmp_path: Path) -> None:
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable}
    command = ["bash", "benchmarks/gpu.sh", "--rehearse"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results.keys() == {"check", "graphs", "profile", "race", "plan", "train"}
    assert all(result["complete"] for result in results.values())
    assert not results["check"]["missed"]
    assert results["graphs"]["rows"]["toy"]["same_bits"]
    assert results["graphs"]["rows"]["toy"]["captured"]
    assert any("loss" in row for row in results["check"]["rows"].values())
    assert "speed" in results["race"]["ratios"]["toy"]
    assert "tokens_per_second" in results["race"]["rows"]["toy llamac-trainer"]
    assert "GPU" in results["race"]["rows"]["toy hf-liger"]["skipped"]
    assert results["train"]["same_curve"]
    assert results["train"]["rows"]["run"]["steps_taken_twice"] > 0
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.stdout.count("complete, in") == 6, "a part that is complete was run again"


def test_an_unknown_part_is_refused() -> None:
    command = ["bash", "benchmarks/gpu.sh", "--rehearse", "--again", "everything"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part everything" in done.stderr


def test_gaps_are_where_no_stream_runs_a_kernel() -> None:
    kernels = [
        Kernel("gemm_a", 0, 1000),
        Kernel("ncclAllGather", 500, 2000),
        Kernel("gemm_b", 2500, 3000),
        Kernel("triton_red_fused", 3000, 4000),
    ]
    found = analysed(kernels, steps=1)
    assert (found["span_ms"], found["busy_ms"], found["gap_ms"]) == (4.0, 3.5, 0.5)
    assert found["gaps"] == 1
    assert found["longest_gaps"] == [{"ms": 0.5, "before": "gemm_b"}]
    assert found["exposed_communication_ms"] == 1.0
    kinds = {"matmul": 1.5, "communication": 1.5, "fused by Inductor": 1.0}
    assert found["kinds_ms"] == kinds
    assert found["table"][0]["share"] == pytest.approx(1.5 / 4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", "matmul"),
        ("void flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("triton_poi_fused_add_silu_3", "fused by Inductor"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "communication"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_of_nested_operators_the_callers_are_kept() -> None:
    kernels = [Kernel("inner", 1, 2), Kernel("outer", 0, 5), Kernel("next", 5, 6)]
    assert [kernel.name for kernel in outermost(kernels)] == ["outer", "next"]


def test_watts_and_clocks_are_the_medians_of_the_samples() -> None:
    text = "600.5, 1980, 3201, 55, 0x0\n700.5, 1755, 3201, 60, 0x4\n650.5, 1980, 3201, 58, 0x0\n"
    found = summary(text)
    assert isinstance(found, dict)
    assert found["watts"] == {"median": 650.5, "range": [600.5, 700.5]}
    assert found["sm_mhz"]["median"] == 1980
    assert found["clocks_held_back_by"] == ["0x0", "0x4"]
    assert summary("NVML: Insufficient permissions") == "NVML: Insufficient permissions"


def timed(tokens_per_second: float, memory: int, loss: float = 10.0) -> dict[str, float]:
    return {
        "tokens_per_second": tokens_per_second,
        "peak_memory_bytes": memory,
        "first_loss": loss,
    }


def test_the_fastest_of_ours_is_held_against_the_fastest_peer() -> None:
    rows = {
        "1b llamac": timed(110, 80),
        "1b llamac-sdpa": timed(90, 70),
        "1b hf-compiled": timed(80, 100),
        "1b hf-liger": timed(100, 100),
        "1b litgpt": {"skipped": "no module named litgpt"},
    }
    assert ratios(rows) == {"1b": {"of": ["llamac", "hf-liger"], "speed": 1.1, "memory": 0.8}}


def test_contestants_that_begin_with_other_losses_are_not_alike() -> None:
    rows = {"1b llamac": timed(1, 1), "1b litgpt": timed(1, 1, 10.05)}
    assert not disagreeing(rows)
    assert disagreeing(rows | {"1b hf-liger": timed(1, 1, 10.2)})
    assert disagreeing(rows | {"1b hf-liger": timed(1, 1, float("nan"))})


def test_steps_taken_twice_must_have_the_same_bits() -> None:
    def row(step: int, loss: float) -> dict[str, float]:
        return {"step": step, "loss": loss, "grad_norm": 1.0, "lr": 0.1}

    before, after = [row(1, 3.0), row(2, 2.0)], [row(2, 2.0000000000000004), row(3, 1.0)]
    assert differing(before, after) == {"steps_taken_twice": 1, "steps_that_differ": [2]}
    assert differing(before, [row(2, 2.0)]) == {"steps_taken_twice": 1, "steps_that_differ": []}
