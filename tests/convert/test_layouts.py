"""A checkpoint of any layout is exported to the same bytes as one that a single process saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from llamac.runtime.checkpoint import checkpoint
from llamac.runtime.checkpoint.dcp import TensorChunk
from llamac.runtime.distributed.ranks import Ranks
from llamac.spec import load_spec
from tests.convert.conftest import exports, make_run, random_tensors, state_of
from tests.runtime.checkpoint.test_checkpoint_ranks import run

BY_COLUMNS = ("attention.wo", "feed_forward.w2")  # as tensor parallelism splits them


def part_of(name: str, whole: Tensor, layout: str, ranks: Ranks) -> Tensor | TensorChunk | None:
    """What a rank saves of a tensor; None: nothing."""
    if layout == "pipeline":  # each rank has the layers of its stage
        own = (
            int(name.split(".")[1]) % 2 if name.startswith("layers.") else name != "tok_embeddings"
        )
        return whole if own == ranks.rank else None
    dim = 1 if layout == "tp2" and name.endswith(BY_COLUMNS) else 0
    if whole.ndim == 1 and layout == "tp2":
        return whole
    half = -(-whole.shape[dim] // 2)  # the first rank's, which has more where halves differ
    begin, size = (0, half) if ranks.rank == 0 else (half, whole.shape[dim] - half)
    offsets = tuple(begin if n == dim else 0 for n in range(whole.ndim))
    return TensorChunk(whole.narrow(dim, begin, size), tuple(whole.shape), offsets)


def save(ranks: Ranks, directory: Path, layout: str) -> None:
    spec = load_spec(str(directory / "spec.toml"))
    parts = {
        name: part
        for name, whole in random_tensors(spec).items()
        if (part := part_of(name, whole, layout, ranks)) is not None
    }
    checkpoint.commit(directory, {"model": parts}, state_of(spec), keep=1, ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp2", "tp2", "pipeline"])
def test_every_layout_leaves_in_the_same_bytes(layout, tokenizer, tmp_path: Path) -> None:
    make_run(tmp_path / "single", tokenizer, "model.n_kv_heads=2")
    shutil.copytree(tmp_path / "single", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert run(save, 2, tmp_path, layout) == [0, 0]
    for format in ("hf", "meta", "gguf"):
        one, other = (
            exports(tmp_path / name, "--format", format, name=f"{name}-{format}")
            for name in ("single", "run")
        )
        assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
        for path in one.iterdir():
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name
