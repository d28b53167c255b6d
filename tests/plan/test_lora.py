"""Plans of adapters: frozen weights have no gradient, master, moments or gradient matmuls."""

from __future__ import annotations

import json

import pytest

from llamac.cli import main

SETTINGS = (
    "parallel.data_shard=1",
    "hardware.gpu=rtx4090",
    "batch.micro_batch=1",
    "batch.sequences=8",
    "hardware.device=cuda",
    "init.from=.",
)


def planned(capsys: pytest.CaptureFixture[str], *settings: str) -> dict:
    options = [word for one in (*SETTINGS, *settings) for word in ("--set", one)]
    code = main(["plan", "7b", "--json", *options])
    plan = json.loads(capsys.readouterr().out)
    assert (code == 0) == plan["fits"]
    return plan


@pytest.mark.slow
def test_a_7b_with_adapters_fits_24_gb_and_a_whole_one_does_not(capsys) -> None:
    lora, full = planned(capsys, "finetune.method=lora"), planned(capsys)
    assert (lora["fits"], full["fits"]) == (True, False)
    rank, dim, layers = 16, 4096, 32
    trained = layers * 4 * rank * 2 * dim  # A and B of wq, wk, wv and wo
    base = full["parameters"]["total"]
    assert lora["parameters"]["total"] == base + trained
    memory = lora["memory"]["per_gpu"]
    assert memory["parameters"] == 2 * (base + trained)
    assert memory["gradients"] == 4 * trained
    assert memory["optimizer"] == (4 + 8) * trained
    matmul = base - 32_000 * dim - (2 * layers + 1) * dim
    assert full["flops"]["per_token"] - lora["flops"]["per_token"] == 2 * matmul - 6 * trained
