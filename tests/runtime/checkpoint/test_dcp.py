"""Parts of tensors: every layout's parts make up the whole, and every layout reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from llamac.runtime.checkpoint import dcp
from llamac.runtime.checkpoint.dcp import ChunkSavePlanner, TensorChunk
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError

WHOLE = torch.arange(48.0).reshape(6, 8)


def cut(dim: int, start: int, stop: int, whole: Tensor = WHOLE) -> TensorChunk:
    offsets = [0] * whole.ndim
    offsets[dim] = start
    part = whole.narrow(dim, start, stop - start)
    return TensorChunk(part, tuple(whole.shape), tuple(offsets))


def plan(*ranks: Mapping[str, Tensor | TensorChunk]) -> tuple[list[SavePlan], Metadata]:
    planners = [ChunkSavePlanner() for _ in ranks]
    for planner, parts in zip(planners, ranks, strict=True):
        planner.set_up_planner({"model": parts})
    return planners[0].create_global_plan([planner.create_local_plan() for planner in planners])


def written(plans: list[SavePlan]) -> list[list[str]]:
    return [[item.index.fqn for item in p.items] for p in plans]


def test_ranks_write_their_parts_and_the_file_knows_the_whole():
    plans, metadata = plan({"w": cut(0, 0, 4)}, {"w": cut(0, 4, 6), "later": torch.ones(3)})
    assert written(plans) == [["model.w"], ["model.w", "model.later"]]
    assert metadata.state_dict_metadata["model.w"].size == torch.Size([6, 8])  # type: ignore
    assert metadata.planner_data == {"model.w": ("model", "w"), "model.later": ("model", "later")}


def test_copies_are_written_once_and_shared_out():
    copies: dict[str, Tensor | TensorChunk] = {"a": WHOLE, "b": WHOLE}
    plans, _ = plan(copies, copies)
    assert sorted(written(plans)) == [["model.a"], ["model.b"]]


def test_a_rank_may_hold_nothing_of_a_tensor():
    plans, _ = plan({"w": cut(0, 0, 6)}, {"w": TensorChunk(WHOLE[:0], (6, 8), (7, 0))})
    assert written(plans) == [["model.w"], []]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([cut(0, 0, 4)], "hold 32 of the 48 elements of model.w"),
        ([cut(0, 0, 2), cut(0, 4, 6)], "hold 32 of the 48 elements of model.w"),
        ([cut(0, 0, 4), cut(0, 3, 6)], "hold 56 of the 48 elements of model.w"),
        ([cut(0, 0, 4), cut(0, 2, 4)], "Failed to validate"),  # the default planner's own
        ([WHOLE, torch.ones(4, 8)], r"model.w is \(6, 8\) for one rank, \(4, 8\) for another"),
    ],
)
def test_parts_that_do_not_make_up_the_tensor_are_refused(parts, problem):
    with pytest.raises(RunError, match=problem):
        plan(*({"w": part} for part in parts))


def test_a_box_lies_within_its_tensor():
    with pytest.raises(ValueError, match=r"\(2, 8\) from \(5, 0\) does not lie within \(6, 8\)"):
        TensorChunk(torch.ones(2, 8), (6, 8), (5, 0))


def test_ranks_in_a_grid_each_write_their_block():
    def block(row: int, column: int) -> TensorChunk:
        part = WHOLE[3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
        return TensorChunk(part, (6, 8), (3 * row, 4 * column))

    plans, _ = plan(*({"w": block(row, column)} for row in (0, 1) for column in (0, 1)))
    assert written(plans) == [["model.w"]] * 4


def saved(directory: Path, **tensors: Tensor) -> Path:
    dcp.write(directory, {"model": tensors}, Ranks())
    return directory


def test_any_part_can_be_read_and_only_that_part_is_written_to(tmp_path):
    path = saved(tmp_path / "tensors", w=WHOLE)
    packed = torch.full((10, 8), -1.0, dtype=torch.bfloat16)
    inner = TensorChunk(packed[2:5, 1:4], (6, 8), (3, 4))
    dcp.read(path, {"model": {"w": inner}})
    assert torch.equal(packed[2:5, 1:4].float(), WHOLE[3:6, 4:7])
    assert (packed == -1).sum() == packed.numel() - 9


def test_scalars_and_vectors_are_tensors_too(tmp_path):
    path = saved(tmp_path / "tensors", scalar=torch.tensor(7.0), vector=torch.arange(4.0))
    scalar, vector = torch.zeros(()), torch.zeros(2)
    dcp.read(path, {"model": {"scalar": scalar, "vector": TensorChunk(vector, (4,), (2,))}})
    assert scalar == 7
    assert vector.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"v": torch.ones(2)}, "has no tensor model.v"),
        ({"w": torch.ones(8, 8)}, r"its model.w is \(6, 8\), not \(8, 8\)"),
    ],
)
def test_what_is_not_there_cannot_be_read(tmp_path, asked, problem):
    path = saved(tmp_path / "tensors", w=WHOLE)
    with pytest.raises(RunError, match=problem):
        dcp.read(path, {"model": asked})


def test_files_with_a_hole_do_not_fill_what_lies_there(tmp_path, monkeypatch):
    monkeypatch.setattr(dcp, "_require_all_of_each", lambda _: None)
    dcp.write(tmp_path / "tensors", {"model": {"w": cut(0, 0, 4)}}, Ranks())
    dcp.read(tmp_path / "tensors", {"model": {"w": cut(0, 1, 3, WHOLE.clone())}})
    with pytest.raises(RunError, match="holds 8 of the 24 requested elements of model"):
        dcp.read(tmp_path / "tensors", {"model": {"w": cut(0, 3, 6, WHOLE.clone())}})
