"""The explorer's data: texts that are those of the compiler, and links that hold between them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from llamac.emit.build import files_of
from llamac.inspect.explorer.explorer_page import explorer_data, explorer_page
from llamac.inspect.explorer.keys import keys_of
from llamac.inspect.explorer.passes import about, hunks, pairs
from llamac.inspect.explorer.side import CompiledSpec
from llamac.inspect.origin import origins
from llamac.ir.printer import print_program
from llamac.ir.values import values_of
from llamac.passes.pass_list import NAMES, stages
from llamac.spec import load_spec
from tests.inspect.conftest import last

SPECS = ["tiny", "65b", "llama2-70b", "gpt3-block"]


@cache
def side_of(name: str, *overrides: str) -> CompiledSpec:
    spec = load_spec(name, overrides)
    return CompiledSpec(name, spec, list(stages(spec)))


@cache
def data_of(name: str) -> dict[str, Any]:
    return explorer_data([side_of(name)])


def text(data: dict[str, Any], numbers: list[int]) -> str:
    return "".join(data["lines"][number] + "\n" for number in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_texts_are_those_of_the_compiler(name: str) -> None:
    data, side = data_of(name), side_of(name)
    (found,) = data["sides"]
    for stage, one in zip(side.stages, found["passes"], strict=True):
        assert text(data, one["lines"]) == print_program(stage.program)
    assert text(data, found["ir"]["lines"]) == print_program(side.program)
    assert text(data, found["emitted"]["lines"]) == files_of(side.spec, side.stages)["model.py"]
    for one in found["spec"][: len(side.spec.files)]:
        path = next(path for path in side.spec.files if path.name == one["file"])
        assert one["lines"] == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", SPECS)
def test_every_node_of_a_block_is_linked_to_spec_ir_and_python(name: str) -> None:
    data = data_of(name)
    (side,) = data["sides"]
    ir, emitted = side["ir"]["nodes"], side["emitted"]["nodes"]
    places = {
        f"{one['file']}:{n}" for one in side["spec"] for n in range(1, len(one["lines"]) + 1)
    } | {line for one in side["spec"] for line in one["lines"]}
    block = {key: node for key, node in side["nodes"].items() if key.startswith("block.")}
    assert len(block) > 30
    for key, node in block.items():
        assert key in ir
        lines = [
            data["lines"][n] for n, at in zip(side["ir"]["lines"], ir, strict=True) if at == key
        ]
        assert len(lines) == 1
        assert all(f"%{value['name']}" in lines[0] for value in node["values"])
        written = [
            data["lines"][side["emitted"]["lines"][int(n) - 1]]
            for n, at in emitted.items()
            if at == key
        ]
        assert written, key
        assert all(value["name"] in "".join(written) for value in node["values"])
        if node["where"]:
            assert node["where"] in places
            assert f"# {node['where']}" in lines[0]
        assert {*node["reads"], *node["users"]} <= side["nodes"].keys()
        assert all(key in side["nodes"][user]["reads"] for user in node["users"])


@pytest.mark.parametrize("name", SPECS)
def test_what_a_node_gives_rise_to_comes_from_it(name: str) -> None:
    nodes = data_of(name)["sides"][0]["nodes"]
    for key, node in nodes.items():
        for made in node.get("backward", ()):
            assert nodes[made]["origin"] == key
    linears = [n for key, n in nodes.items() if key.startswith("block.f.") and n["op"] == "linear"]
    assert linears
    for node in linears:
        made = {nodes[key]["op"] for key in node["backward"]}
        assert made >= {"linear_weight_gradient", "linear_input_gradient"}


def test_every_recomputed_op_comes_from_the_op_that_makes_the_same_value() -> None:
    region = last("65b").regions["block"]
    assert region.backward is not None
    for node, origin in origins(region).items():
        made = {value.name for value in values_of(node)}
        if not any(name.startswith("d_") for name in made):
            assert made & {value.name for value in values_of(origin)}


def test_kept_and_recomputed_values_say_why() -> None:
    nodes = data_of("65b")["sides"][0]["nodes"]
    values = {
        v["name"]: v for key, n in nodes.items() if key.startswith("block.f.") for v in n["values"]
    }
    assert values["gate_up"]["status"] == "saved"
    assert values["gate_up"]["why"] == "recomputing it would take a matmul"
    assert values["attn_out"]["why"] == "recomputing it would take a matmul and a transfer"
    assert values["attn_context"]["why"] == "recomputing it would take an attention"
    assert "no more memory than" in values["qkv_rotated"]["why"]
    assert values["hidden"]["why"] == "memory-bound: recomputing it costs less than saving it"
    assert values["merged"]["why"] == "a view of attn_context, without memory of its own"
    assert values["out"]["status"] == "not needed"


def test_a_chip_for_each_axis_says_what_it_means() -> None:
    nodes = data_of("65b")["sides"][0]["nodes"]

    def chips(key: str) -> dict[str, tuple[str, str]]:
        return {axis: (place, words) for axis, place, words in nodes[key]["values"][0]["chips"]}

    assert chips("block.f.attn_in") == {
        "dp_shard": ("S(0)", "each of the 256 data ranks works on sequences of its own"),
        "tp": ("S(1)", "split along dimension 1 (S/tp): 256 on each of 8 ranks"),
    }
    assert chips("block.f.attn_out_partial")["tp"][0] == "P"
    assert chips("block.f.attention_norm")["tp"] == ("R", "the same on each of the 8 ranks")
    assert chips("block.f.wqkv")["dp_shard"][1].startswith("sharded over 256 ranks")
    assert chips("block.b.d_w2")["dp_shard"][0] == "P"


def test_hunks_make_one_text_of_the_other() -> None:
    one, other = (print_program(last("tiny", p)).splitlines() for p in ("none", "full"))
    made, at = [], 0
    for i, j, k, m, rows in hunks(one, other):
        made += [*one[at:i], *other[k:m]]
        at = j
        assert sorted(a for a, _ in rows if a >= 0) == list(range(i, j))
        assert sorted(b for _, b in rows if b >= 0) == list(range(k, m))
    assert made + one[at:] == other


def test_lines_that_define_the_same_value_stand_side_by_side() -> None:
    before = ["%a: f32[2] = f(%x)", "%b: f32[2] = g(%a)"]
    after = ["%n: f32[2] = h(%x)", "%b: f32[2] = g(%n)"]
    assert pairs(before, after, 5, 7) == [(5, -1), (-1, 7), (6, 8)]


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_says_what_it_does(name: str) -> None:
    assert len(about(name)) > 20
    assert not about(name).startswith(name)


def test_the_page_is_one_small_file_and_the_same_each_time() -> None:
    page = explorer_page([side_of("65b")])
    assert len(page.encode()) < 5_000_000
    assert page == explorer_page([side_of("65b")])
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_an_early_stage_has_the_functions_it_would_be() -> None:
    side = side_of("tiny")
    early = CompiledSpec("tiny", side.spec, side.stages[:3])
    data = explorer_data([early])
    (found,) = data["sides"]
    assert found["emitted"]["file"] == "after fuse"
    assert set(keys_of(early.program).values()) >= set(found["emitted"]["nodes"].values())
    assert found["step"] is None


def test_hostile_text_stays_text() -> None:
    hostile = '</script><script>alert("x")</script><!--'
    side = side_of("tiny", f"eval.prompt={json.dumps(hostile)}")
    page = explorer_page([CompiledSpec(hostile, side.spec, side.stages)])
    assert "<script>alert" not in page
    assert hostile not in page


def test_two_sides_show_where_their_texts_differ() -> None:
    sides = [side_of("tiny"), side_of("tiny", "recompute.policy=full")]
    data = explorer_data(sides)
    spec, ir, python = data["comparison"]["texts"]
    changed = {
        data["lines"][spec["lines"][1][b]] for hunk in spec["hunks"] for _, b in hunk[4] if b >= 0
    }
    assert 'policy = "full"' in changed
    assert ir["hunks"]
    assert python["hunks"]
