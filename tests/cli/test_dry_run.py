"""`llamac train --dry-run`: the emitted trainer as one rank of many, without the others."""

from __future__ import annotations

import json

import pytest

from llamac.cli import main

SMALL = ["train", "tiny", "--dry-run", "--set=model.n_layers=2", "--set=batch.sequences=32"]


def dry(*options: str, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, int], int]:
    """Calls of each (kind, ranks of the group)."""
    assert main([*SMALL, *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["collectives"]
    return {(row["collective"], row["ranks"]): row["calls"] for row in rows}


@pytest.mark.slow
def test_sharded_state_is_gathered_by_layer_and_reduced_once_a_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry(
        "--set=parallel.data_shard=4",
        "--set=batch.micro_batch=2",
        "--set=schedule.steps=30",
        capsys=capsys,
    )
    assert found[("reduce_scatter", 4)] == 3  # two layers and the rest, after the last of 4
    assert found[("all_reduce", 4)] == 1  # loss and norm


@pytest.mark.slow
def test_tensor_parallel_collectives_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry("--set=parallel.tensor=4", "--set=batch.micro_batch=16", capsys=capsys)
    micro_batches, layers = 2, 2
    # per layer 2 forward and 4 backward; the embedding's gradient and the head each gather once
    assert found[("all_gather", 4)] == micro_batches * (6 * layers + 2)
    assert found[("reduce_scatter", 4)] == micro_batches * (4 * layers + 2)


@pytest.mark.slow
def test_a_pipeline_rank_sends_activations_on_and_gradients_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry(
        "--set=model.n_layers=4",
        "--set=parallel.pipeline=2",
        "--set=parallel.pipeline_virtual=2",
        "--set=parallel.data_shard=2",
        "--set=batch.micro_batch=4",
        capsys=capsys,
    )
    micro_batches = 4
    assert found[("send", 2)] == 3 * micro_batches  # stage 0 on; stage 2 on, and back
    # once a step: a layer of each stage, and the embedding
    assert found[("all_gather", 2)] == found[("reduce_scatter", 2)] == 3


def test_one_process_needs_no_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 2
    assert "has one rank" in capsys.readouterr().err
