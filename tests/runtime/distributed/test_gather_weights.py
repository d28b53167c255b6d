"""Whole weights on rank 0: out of parts, or not at all where there is no room."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llamac.runtime.checkpoint.dcp import TensorChunk
from llamac.runtime.distributed import gather_weights as gathering
from llamac.runtime.distributed.ranks import Ranks

PACKED = {"weight": (("upper", 2), ("lower", 1))}


def gather(log=print):
    whole = torch.arange(12.0).view(3, 4)
    chunks = {
        "upper": TensorChunk(whole[:2], (2, 4), (0, 0)),
        "lower": TensorChunk(whole[2:], (1, 4), (0, 0)),
    }
    make = lambda: nn.Linear(4, 3, bias=False, dtype=torch.bfloat16)  # noqa: E731
    return whole, gathering.gather_weights(make, PACKED, chunks, Ranks(), log)


def test_parts_become_the_packed_parameters_in_the_models_dtype() -> None:
    whole, model = gather()
    assert torch.equal(model.weight, whole.bfloat16())


def test_without_room_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "free_memory", lambda: 8)
    said: list[str] = []
    assert gather(said.append)[1] is None
    assert said == ["no sample: the weights take 0.0 GB, but rank 0 has 0.0 GB of memory free"]
