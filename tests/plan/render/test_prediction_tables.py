"""The tables of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamac.plan.device.device import load_device
from llamac.plan.render.prediction_tables import (
    digits,
    headline,
    link_name,
    op_sections,
    prediction_tables,
    print_prediction,
    readable_days,
    readable_seconds,
    transfer_section,
)
from llamac.plan.timeline.step import StepTimeline
from tests.plan.steps import LAYOUTS, planned


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_parts_of_memory_and_of_time_sum_to_the_whole(name: str) -> None:
    prediction, _ = planned(name)
    memory, time = list(prediction_tables(prediction))[:2]
    *parts, whole = [float(str(row[1]).replace(",", "")) for row in memory.rows]
    assert sum(parts) == pytest.approx(whole, abs=0.005 * len(memory.rows))
    shares = [float(str(row[2]).removesuffix(" %")) for row in time.rows[:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert "overhead: the process, the allocator" in [row[0] for row in memory.rows]


def test_rows_have_a_cell_for_every_column() -> None:
    prediction, program = planned("FSDP over tensor ranks")
    step = StepTimeline(prediction, program)
    for section in (*prediction_tables(prediction), *op_sections(step), transfer_section(step)):
        for row in section.rows:
            assert len(row) == len(section.head) == len(section.align), section.title


def test_one_rank_passes_nothing_on() -> None:
    prediction, program = planned("one rank")
    assert transfer_section(StepTimeline(prediction, program)).rows == [("nothing",)]
    assert "bytes that a rank sends per step" not in [
        one.title for one in prediction_tables(prediction)
    ]


def test_the_verdict_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    prediction, _ = planned("FSDP over tensor ranks")
    assert headline(prediction).startswith("fits: ")
    small = replace(prediction.setting, device=replace(prediction.setting.device, memory=10**9))
    tight = replace(prediction, setting=small)
    print_prediction(tight)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("does not fit: ")
    assert "of 1.00 GB" in lines[2]


def test_what_is_piped_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    prediction, program = planned("FSDP over tensor ranks")
    print_prediction(prediction, op_sections(StepTimeline(prediction, program)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert "…" not in out.replace("… per GPU", "")  # no cell is cut


def test_groups_cross_the_links_that_their_place_in_the_mesh_says() -> None:
    device = load_device("a100-80gb")  # nodes of 8
    assert link_name(device, 8, 1).startswith("within a node")
    assert link_name(device, 2, 8).startswith("between nodes")
    assert link_name(device, 4, 2).startswith("within a node")
    assert link_name(device, 16, 1).startswith("between nodes")


def test_numbers_read_as_people_write_them() -> None:
    assert [digits(n) for n in (0, 0.00012, 0.0421, 4.2, 137.4, 12345.6)] == [
        "0",
        "1.2e-04",
        "0.0421",
        "4.20",
        "137",
        "12,346",
    ]
    assert [readable_seconds(s) for s in (12.3, 0.0456, 7e-6)] == ["12.3 s", "45.6 ms", "7.00 µs"]
    days = ["20.8 days", "12.0 hours", "14.4 minutes"]
    assert [readable_days(d) for d in (20.8, 0.5, 0.01)] == days
