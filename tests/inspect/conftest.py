"""Stages of shipped specs, compiled once for all tests."""

from __future__ import annotations

from functools import cache

from llamac.ir.program import Program, Region
from llamac.passes.pipeline import stages
from llamac.spec import load_spec


@cache
def compiled(spec: str, policy: str = "selective") -> dict[str, Program]:
    """Pass → the program as it left it."""
    loaded = load_spec(spec, [f"activation.checkpoint={policy}"])
    return {stage.name: stage.program for stage in stages(loaded)}


def last(spec: str, policy: str = "selective") -> Program:
    return compiled(spec, policy)["checkpoint"]


def block(spec: str, policy: str = "selective") -> Region:
    return last(spec, policy).regions["block"]
