"""`llamac inspect --schedule`: what the estimate says is hidden, as text and as a picture."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from llamac.cli import main
from llamac.inspect.drawing.lanes import schedule_svg
from llamac.inspect.schedule import LANE_WIDTH, collectives, schedule_parts, schedules
from llamac.ir.graph import ops_in
from llamac.ir.parser import parse_program
from llamac.ir.program import Program
from llamac.look.text_table import plain_text
from llamac.passes.analysis.timing import A100, TimingModel, timeline
from llamac.passes.overlap import Overlap
from llamac.passes.pass_list import stages
from llamac.spec import load_spec

TEXT = """\
program example
symbols B=1 S=1000 S/tp=500
mesh tp=2
parameter w: f32[1000,1000] = normal(0.1)

block.forward:
  input %x: f32[B,S/tp,1000]@tp:S(1)
  input %y: f32[B,S,1000]
  param w as %w: f32[1000,1000]
  %product: f32[B,S,1000] = linear(%y, w)
  %gathered: f32[B,S,1000] = all_gather(%x, axis='tp', dim=1, size=2)
  %out: f32[B,S,1000] = add(%product, %gathered)
  return %out
"""
MATMUL = 3 * 4e6 / 1.5e12  # its memory traffic takes longer than 2e9 / 271e12
TRANSFER = 4e6 / 2 / A100.wire  # half of what is gathered


@cache
def program() -> Program:
    return parse_program(TEXT)


@cache
def compiled() -> Program:
    spec = load_spec("65b", ["parallel.tensor=8", "parallel.context=2"])
    *_, last = stages(spec, stop_after="overlap")
    return last.program


def test_the_roofline_and_the_wire() -> None:
    assert 2e9 / A100.flops < MATMUL
    timing = TimingModel(program().symbols, program().mesh)
    product, gathered, _ = ops_in(program().regions["block"].forward.graph)
    assert timing.seconds(product) == pytest.approx(MATMUL)
    assert timing.seconds(gathered) == pytest.approx(TRANSFER)


def test_a_whole_collective_is_exposed_and_a_started_one_hidden_as_long_as_compute_lasts() -> None:
    (before,) = schedules(program())
    (after,) = schedules(Overlap().apply(program()))
    whole, begun = before.timeline, after.timeline
    assert whole.exposed == pytest.approx(TRANSFER)
    assert begun.exposed == pytest.approx(max(0.0, TRANSFER - MATMUL))
    assert begun.seconds == pytest.approx(whole.seconds - min(TRANSFER, MATMUL))


def test_transfers_of_one_axis_run_one_at_a_time() -> None:
    for region in compiled().regions.values():
        for module in filter(None, (region.forward, region.backward)):
            line = timeline(ops_in(module.graph), TimingModel(compiled().symbols, compiled().mesh))
            for lane in line.lanes:
                spans = [span for span in line.spans if span.lane == lane]
                for one, after in pairwise(spans):
                    assert one.end <= after.begin + 1e-12, region.name


def test_the_text_names_every_transfer_and_both_axes() -> None:
    text = plain_text(schedule_parts(compiled(), "overlap"))
    assert "an estimate, not a measurement" in text
    for schedule in schedules(compiled()):
        assert f"\n{schedule.title}: " in text
        assert collectives(schedule.timeline)
    lanes = [line for line in text.splitlines() if "│" in line]
    assert {line.split("│")[0].strip() for line in lanes} == {"compute", "tp", "cp"}
    assert {len(line.split("│")[1]) for line in lanes} == {LANE_WIDTH}


def test_the_picture_is_well_formed_and_the_same_each_time() -> None:
    drawn = schedule_svg(compiled(), "overlap")
    assert drawn == schedule_svg(compiled(), "overlap")
    root = ElementTree.fromstring(drawn)
    width = float(root.attrib["width"])
    shapes = root.iter("{http://www.w3.org/2000/svg}rect")
    for shape in shapes:
        assert float(shape.attrib.get("x", 0)) + float(shape.attrib["width"]) <= width
    hovers = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any("d_attn_in = reduce_scatter" in one for one in hovers)


@pytest.mark.slow
def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    tensor = ["--set", "parallel.tensor=2"]
    assert main(["inspect", "tiny", *tensor, "--schedule", "--region", "head"]) == 0
    out = capsys.readouterr().out
    assert "head.backward: " in out
    assert "block" not in out
    assert main(["inspect", "tiny", *tensor, "--schedule", "--format", "svg"]) == 0
    assert capsys.readouterr().out.startswith("<svg")
    assert main(["inspect", "tiny", "--schedule"]) == 0
    assert "no communication between ranks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--memory"], "it cannot be combined with --memory"),
        (["--diff", "pack", "fuse"], "it cannot be combined with --diff"),
        (["--format", "dot"], "--schedule can be written as text, json or svg, not as dot"),
    ],
)
def test_what_makes_no_sense_is_refused(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "tiny", "--schedule", *more]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_estimate_is_for_the_spec_s_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The same transfers, on a faster device, take less; and the page names it."""
    said = {}
    for gpu in ("a100-80gb", "h100-sxm"):
        options = ["--region", "block", f"--set=hardware.gpu={gpu}"]
        assert main(["inspect", "65b", "--schedule", *options]) == 0
        said[gpu] = capsys.readouterr().out
    assert "NVIDIA A100 SXM4 80GB" in said["a100-80gb"]
    assert "NVIDIA H100 SXM5 80GB" in said["h100-sxm"]
    took = {
        gpu: float(text.split("block.forward × 80: ")[1].split(" µs")[0].replace(",", ""))
        for gpu, text in said.items()
    }
    assert took["h100-sxm"] < 0.75 * took["a100-80gb"]
