"""Stages of shipped specs, compiled once for all tests."""

from __future__ import annotations

from functools import cache

from llamac.ir.program import Program, Region
from llamac.passes.pass_list import stages
from llamac.spec import load_spec
from tests.compare import shipped

TINY = load_spec("tiny").model

# What values of tiny's block take, in sbh.
FFN = TINY.ffn_dim / TINY.dim
LOGSUMEXP = TINY.n_heads / TINY.dim  # float32, as all of tiny
KEPT = 1 + 3 + 1 + LOGSUMEXP + 1 + 2 * FFN  # x, qkv_rotated, context, attn_out, gate_up
# x, attn_in, q, k, v, context, h, ffn_in, gate_up, hidden
EVERYTHING = 1 + 1 + 3 + 1 + LOGSUMEXP + 1 + 1 + 2 * FFN + FFN
# attn_in, qkv, qkv_rotated, context, attn_out, h, ffn_in, gate_up, hidden, ffn_out, out
COMPUTED = 1 + 3 + 3 + 1 + LOGSUMEXP + 1 + 1 + 1 + 2 * FFN + FFN + 1 + 1


@cache
def compiled(spec: str, policy: str = "selective") -> dict[str, Program]:
    """Pass → the program as it left it."""
    loaded = shipped(spec, f"recompute.policy={policy}")
    return {stage.name: stage.program for stage in stages(loaded)}


def last(spec: str, policy: str = "selective") -> Program:
    return compiled(spec, policy)["checkpoint"]


def block(spec: str, policy: str = "selective") -> Region:
    return last(spec, policy).regions["block"]
