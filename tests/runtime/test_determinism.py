"""Kernels on a GPU add up in a fixed order; on a CPU nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor

from llamac.runtime.determinism import make_deterministic

MEMORY: Any = torch.utils.deterministic
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(WORKSPACE, raising=False)
    fill = MEMORY.fill_uninitialized_memory
    yield
    inductor.deterministic = False
    torch.use_deterministic_algorithms(False)
    MEMORY.fill_uninitialized_memory = fill


def test_on_cuda_every_source_of_another_order_is_shut() -> None:
    make_deterministic(torch.device("cuda"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # flash would not heed it
    assert not MEMORY.fill_uninitialized_memory
    assert inductor.deterministic
    assert os.environ.pop(WORKSPACE) == ":4096:8"


def test_on_a_cpu_nothing_changes() -> None:
    make_deterministic(torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ
