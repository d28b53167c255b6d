"""Writers of each format pass a tensor to the disk before the next one, in files of any size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llamac.convert.gguf import gguf_export
from llamac.convert.hf.safetensors_file import write_safetensors
from llamac.convert.meta.pth import write_pth
from llamac.convert.tensors import LazyTensor
from llamac.convert.weights import write_weights


def write_gguf(path: Path, tensors: dict[str, LazyTensor]) -> None:
    gguf_export._write(path, "llama", {}, tensors, dict.fromkeys(tensors, "F32"))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no posix_fadvise")
@pytest.mark.parametrize("write", [write_weights, write_safetensors, write_pth, write_gguf])
def test_the_cache_of_each_written_tensor_is_freed(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: there.append(os.fstat(fd).st_size))
    count = 5000
    tensors = {
        f"t{n}": LazyTensor(torch.float32, (count,), f"t{n}", lambda n=n: torch.full((count,), n))
        for n in range(3)
    }
    write(tmp_path / "written", tensors)
    assert len(there) == 3
    assert all(size >= 4 * count * number for number, size in enumerate(there, 1))
