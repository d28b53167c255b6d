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
    # A and B of rank 16 of wq, wk, wv, wo in 32 layers: 16,777,216 parameters, which take 4 bytes
    # of gradient, 4 of master weights and 8 of moments each; all weights take 2 bytes.
    assert full["parameters"]["total"] == 6_738_415_616
    assert lora["parameters"]["total"] == 6_755_192_832
    memory = lora["memory"]["per_gpu"]
    assert memory["parameters"] == 13_510_385_664
    assert memory["gradients"] == 67_108_864
    assert memory["optimizer"] == 201_326_592
    # Weight gradients of 6,607,077,376 matmul parameters, less 6 FLOPs for each of the adapters.
    assert full["flops"]["per_token"] - lora["flops"]["per_token"] == 13_113_491_456
