"""A step's prediction: its parts, and what moves them which way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.passes.analysis.peak_memory import Memory
from llamac.plan.cost.framework import FRAMEWORKS
from llamac.plan.device.device import load_device
from llamac.plan.predict import predict
from llamac.plan.prediction import Prediction, Seconds
from llamac.plan.setting import Setting
from llamac.plan.target import setting_for
from llamac.spec import load_spec

A100 = load_device("a100-80gb")
SMALL = ("model.n_layers=8", "batch.tokens=64Ki", "schedule.tokens=1G")


def planned(*overrides: str, name: str = "7b", **changes: object) -> Prediction:
    setting = replace(Setting(load_spec(name, (*SMALL, *overrides)), A100), **changes)  # type: ignore[arg-type]
    return predict(setting)


@pytest.mark.slow
def test_the_parts_are_the_whole() -> None:
    seconds, memory = Seconds(1, 2, 4, 8, 16, 32), Memory(1, 2, 4, 8, 16, 32, 64)
    assert (seconds.total, memory.total) == (63, 127)
    found = replace(planned(), seconds=seconds)
    assert (found.setting.tokens, found.setting.spec.parallel.ranks) == (65_536, 8)
    assert found.tokens_per_second_per_gpu == pytest.approx(130.0317)


def test_a_compiled_program_gives_the_same() -> None:
    setting = planned().setting
    program = setting.compile()
    assert predict(setting, program).to_json() == predict(setting).to_json()


def test_hardware_does_no_less_than_the_model_asks_for_but_half_of_causal_attention() -> None:
    none, full = (planned(f"recompute.policy={how}") for how in ("none", "full"))
    half = none.flops_per_token + none.attention_per_token / 2
    assert none.hardware_flops == pytest.approx(half * none.setting.tokens, rel=0.1)
    assert full.hardware_flops > 1.2 * none.hardware_flops


def test_a_window_costs_the_pairs_that_it_shows() -> None:
    """S·w - w²/2 of S²/2: at an eighth of the sequence, 15/64 of causal attention."""
    whole, windowed, wide = (
        planned(
            "kernels.attention=sdpa", "batch.sequence_length=8192", "batch.micro_batch=1", *more
        )
        for more in ((), ("model.sliding_window=1024",), ("model.sliding_window=8192",))
    )
    assert windowed.attention_per_token == whole.attention_per_token / 8
    assert windowed.flops_per_token == whole.flops_per_token
    assert windowed.seconds.compute < whole.seconds.compute
    saved = whole.hardware_flops - windowed.hardware_flops
    attention = whole.attention_per_token * whole.setting.tokens
    assert saved == pytest.approx(attention / 2 * 49 / 64 * 7 / 6, rel=1e-6)  # 7 matmuls for 6
    assert wide.to_json() == whole.to_json()


def test_memory_and_update_time_are_those_of_the_spec_s_optimizer() -> None:
    adamw, lion = (planned(f"optimizer.kind={kind}") for kind in ("adamw", "lion"))
    assert lion.memory.optimizer == pytest.approx(adamw.memory.optimizer / 2)  # 4 of 8, zero3
    assert lion.seconds.optimizer < adamw.seconds.optimizer


def test_a_pipeline_s_bubble_is_the_other_ranks_turns() -> None:
    """(p - 1) / m of the time of a step, less with virtual stages (Narayanan et al. 2021)."""
    stages = ("parallel.pipeline=4", "parallel.data_shard=1", "model.n_layers=64")
    plain, virtual = planned(*stages), planned(*stages, "parallel.pipeline_virtual=2")
    turns = plain.setting.rank_micro_batches
    assert plain.seconds.bubble == pytest.approx(plain.seconds.compute * 3 / turns, rel=0.15)
    assert virtual.seconds.bubble == pytest.approx(plain.seconds.bubble / 2)


def test_fewer_micro_batches_than_stages_can_be_said() -> None:
    stages = ("parallel.pipeline=4", "parallel.data_shard=1")
    found = planned(*stages, micro_batches=2)
    spec = found.setting.spec
    assert found.setting.tokens == 2 * spec.batch.micro_batch * spec.batch.sequence_length
    assert found.seconds.bubble > found.seconds.compute / 2


def test_transfers_that_nothing_hides_take_longer() -> None:
    tensor = ("parallel.tensor=8", "parallel.data_shard=1")
    hidden = planned(*tensor, profile=replace(FRAMEWORKS["llamac"], hides=1.0))
    open_ = planned(*tensor, profile=replace(FRAMEWORKS["llamac"], hides=0.0))
    assert hidden.seconds.tensor == 0
    assert hidden.seconds.total < open_.seconds.total


def test_the_host_bounds_a_small_step() -> None:
    slow = replace(FRAMEWORKS["llamac"], host=1e-3)
    assert planned(profile=slow).seconds.compute > planned().seconds.compute


def test_sharing_more_holds_less() -> None:
    over = ("model.n_layers=16", "parallel.data_shard=1", "parallel.data_replicate=8")
    each_time = FRAMEWORKS["compiled"]  # ours holds gradients until the step ends
    ways = ("none", "zero1", "zero2", "zero3")
    held = [planned(*over, sharding=how, profile=each_time).memory.total for how in ways]
    assert held == sorted(held, reverse=True)
    assert len(set(held)) == 4


def test_reducing_after_each_micro_batch_holds_less_and_moves_more() -> None:
    shared = ("parallel.data_shard=8", "batch.micro_batch=1", *SMALL)
    once, each = (
        predict(setting_for(load_spec("7b", (*shared, *more)), A100))
        for more in ((), ("parallel.reduce_each=true",))
    )
    assert each.memory.total < once.memory.total - 4 * once.memory.gradients  # of all 8 ranks
    bytes_of = [sum(found.communication.values()) for found in (once, each)]
    assert bytes_of[1] > bytes_of[0]


def test_what_other_losses_hold_of_their_logits_is_said() -> None:
    ours, theirs = planned(), planned(profile=FRAMEWORKS["compiled"])
    assert theirs.memory.logits > ours.memory.logits


def test_fp8_is_faster_where_there_is_any() -> None:
    setting = replace(planned("batch.micro_batch=4").setting, device=load_device("h100-sxm"))
    plain, fp8 = predict(setting), predict(replace(setting, fp8=True))
    assert fp8.seconds.compute < plain.seconds.compute
