"""Text forms: Python that runs, JSON and dot that tell all, and what a pass changed."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import fx

from llamac.inspect.diff import diff_json, diff_text, graph_changes
from llamac.inspect.graphviz import program_dot, quote
from llamac.inspect.memory import readable_bytes, stream_bytes
from llamac.inspect.program_json import dump, program_json
from llamac.inspect.source import stage_source
from llamac.ir.execute import run_graph
from llamac.ir.graph import ops_in, output_of, placeholders, type_of
from llamac.passes.pass_list import NAMES
from tests.inspect.conftest import COMPUTED, EVERYTHING, KEPT, TINY, compiled, last


def sizes(node: fx.Node) -> list[int]:
    return [{"B": 1, "S": 8}[dim] if isinstance(dim, str) else dim for dim in type_of(node).shape]


@pytest.mark.parametrize("spec", ["tiny", "gpt3-block", "post-norm"])
@pytest.mark.parametrize("stage", NAMES)
def test_python_of_every_stage_computes_what_the_graph_does(spec: str, stage: str) -> None:
    program = compiled(spec)[stage]
    if spec != "tiny":  # the others are too large to run here
        compile(stage_source(program, stage), stage, "exec")
        return
    names: dict = {}
    exec(compile(stage_source(program, stage), stage, "exec"), names)
    graph = program.regions["block"].forward.graph
    torch.manual_seed(0)
    values = {node.name: torch.randn(sizes(node)) * 0.1 for node in placeholders(graph)}
    made = names["block_forward"](*values.values())
    out = made[0] if isinstance(made, tuple) else made
    expected = run_graph(graph, values)[output_of(graph).name]
    torch.testing.assert_close(out, expected)


def test_python_has_backward_functions_once_there_are_any() -> None:
    assert "backward" not in stage_source(compiled("tiny")["fuse"], "fuse")
    source = stage_source(last("tiny"), "checkpoint", "block")
    assert "def block_backward(" in source
    assert "def head_forward(" not in source
    assert f"hidden = packed_swiglu(gate_up)  # [B, S, {TINY.ffn_dim}], recomputed" in source


def test_json_tells_the_whole_program() -> None:
    program = last("tiny")
    found = json.loads(dump(program_json(program, "checkpoint")))
    assert (found["format"], found["version"], found["stage"]) == (
        "llamac-program",
        1,
        "checkpoint",
    )
    assert found["symbols"] == {"B": 8, "S": 256}
    assert found["layers"] == [{"region": "block", "count": 6}]
    tables = {entry["name"]: entry for entry in found["parameters"]}
    assert [p["rows"] for p in tables["layers.*.attention.wqkv"]["pieces"]] == [256, 256, 256]
    assert tables["layers.*.attention.wqkv"]["count"] == 6
    (one,) = (region for region in found["regions"] if region["name"] == "block")
    nodes = one["forward"]["nodes"]
    assert len(nodes) == len(list(ops_in(program.regions["block"].forward.graph)))
    attention = next(node for node in nodes if node["op"] == "attention")
    assert attention["operands"] == ["q", "k", "v"]
    assert [result["name"] for result in attention["results"]] == ["attn_context", "logsumexp"]
    assert attention["results"][1] == {
        "name": "logsumexp",
        "dtype": "f32",
        "shape": ["B", 8, "S"],
        "saved": True,
    }
    assert attention["where"].startswith("tiny.toml:")
    assert one["backward"]["returns"]["layers.*.attention.wo"] == "d_wo"
    logits = next(region for region in found["regions"] if region["name"] == "logits")
    assert logits["backward"] is None


def test_dot_is_balanced_and_joins_the_graphs_by_what_is_saved() -> None:
    text = program_dot(last("tiny"), "checkpoint", "block")
    assert text.startswith('digraph "tiny" {')
    assert text.count("{") == text.count("}")
    crossing = re.findall(r'"block\.forward\.(\w+)" -> "block\.backward\.(\w+)"', text)
    assert sorted(name for _, name in crossing) == sorted(last("tiny").regions["block"].saved)
    nodes = set(re.findall(r'^\s*("[^"]+") \[label', text, re.M))
    ends = {end for edge in re.findall(r'("[^"]+") -> ("[^"]+")', text) for end in edge}
    assert ends <= nodes


def test_dot_strings_are_escaped() -> None:
    assert quote('a "b" \\ c\nd') == '"a \\"b\\" \\\\ c\\nd"'


def test_diff_says_what_fuse_did() -> None:
    before, after = compiled("tiny")["pack"], compiled("tiny")["fuse"]
    (change,) = (c for c in graph_changes(before, after, "block"))
    assert change.counts["rope"] == (2, 1)
    assert change.counts["add_rms_norm"] == (0, 1)
    assert change.counts["packed_swiglu"] == (0, 1)
    assert "hidden = mul" not in change.added
    assert "hidden = mul → packed_swiglu" in change.changed
    assert "activated = silu" in change.removed
    assert "linear" not in change.counts


def test_diff_says_what_checkpointing_saves() -> None:
    before, after = compiled("tiny")["differentiate"], last("tiny")
    text = diff_text(before, after, ("differentiate", "checkpoint"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    columns = (COMPUTED, COMPUTED, EVERYTHING, KEPT)
    shown = [readable_bytes(round(sbh * stream_bytes(after))) for sbh in columns]
    assert f"block, one of {TINY.n_layers} {' '.join(shown)}" in lines
    assert "newly saved: qkv_rotated, attn_out" in lines
    assert "no longer saved: attn_in, q, k, v, merged, h, ffn_in, hidden" in lines
    assert f"+ %hidden: f32[B,S,{TINY.ffn_dim}] = packed_swiglu(%gate_up) # tiny.toml:10" in lines
    found = diff_json(before, after, ("differentiate", "checkpoint"))
    activations, saved = (found["bytes"]["block"][key] for key in ("activations", "saved"))
    assert activations[0] == activations[1]
    assert saved[0] > saved[1] > 0
    backward = next(g for g in found["graphs"] if g["direction"] == "backward")
    assert backward["ops"]["rms_norm"] == [0, 1]
    assert json.loads(dump(found)) == found


def test_a_stage_does_not_differ_from_itself() -> None:
    program = last("tiny")
    assert graph_changes(program, program) == []
    assert "no node was added" in diff_text(program, program, ("checkpoint", "checkpoint"))
