"""How a published row's framework ran it: kernels, checkpointing, what data ranks share."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from llamac.passes.footprint import Sharding
from llamac.plan.cost.framework import FRAMEWORKS, SOFTMAX_DROPOUT, FrameworkProfile
from llamac.plan.device.device import Device
from llamac.plan.published.rows import EMPTY, Row, says, text

COMPILED = ("compile", "inductor", "nanogpt", "jax", "maxtext", "xla", "olmo-core")
MEGATRON = ("megatron", "nemo", "bloom", "transformer.engine", r"\bmcore")
CORE = ("nemo", "transformer.engine", "core", r"\bte\b")
FIRST_FLASH = ("triton", r"v1\b", r"flash.?attn.?1", r"\bfa1?\b(?!\d)")
LATEST_FLASH = (r"fa.?3", r"flash.?att.*3", "cudnn", r"\bte\b", "fused attn")
WRITTEN = ("unfused", "math", "no.?flash", "fused.softmax", "eager", "naive", r"^no$", "vanilla")

MEGATRON_SCORES = replace(SOFTMAX_DROPOUT, kernels=19.0)
ROWWISE = 0.65
"""Of fp8's rate, what matmuls scaled by rows reach: little more than bf16's (torchtitan)."""


def profile_of(row: Row, device: Device) -> FrameworkProfile:
    given = text(row, "framework", "notes")
    profile = FRAMEWORKS["eager"]
    if says(given, *MEGATRON):
        profile = FRAMEWORKS["megatron"]
        if not unfused(row) and (says(given, *CORE) or device.has_async_matmuls):
            profile = FRAMEWORKS["megatron-core"]
    elif says(given, *COMPILED) and not says(given, r"\beager\b", "no.compile"):
        profile = FRAMEWORKS["compiled"]
    core = profile == FRAMEWORKS["megatron-core"]
    if says(given, "async.?tp", "userbuffer", r"\bub\b", "tp.comm.overlap"):
        profile = replace(profile, hides=profile.hides_async)
    sharding = text(row, "dp_sharding")
    if says(sharding, "non.overlapped", "no overlap"):
        profile = replace(profile, overlapped=False)
    elif says(sharding + given, "overlap"):
        profile = replace(profile, overlapped=True)
    if says(sharding, "pure"):  # llm-foundry: gradients are reduced in the compute dtype
        profile = replace(profile, wire_bytes=2)
    if says(given, "foundry", "composer"):
        profile = replace(profile, logit_bytes=4.0)  # its fused loss works in place
    if "rowwise" in text(row, "dtype"):
        profile = replace(profile, fp8=ROWWISE)
    attention = device.flash2
    kernel = text(row, "attn_kernel")
    if says(kernel, *LATEST_FLASH) or (core and not says(kernel, "2")):
        attention = 1.0
    elif says(kernel, *FIRST_FLASH):
        attention = device.flash1
    return replace(profile, scores=MEGATRON_SCORES if unfused(row) else None, attention=attention)


def unfused(row: Row) -> bool:
    """Are attention's scores written out? So it was before flash attention, and is on V100s."""
    kernel = text(row, "attn_kernel")
    if kernel in EMPTY:
        return says(text(row, "gpu"), "v100") or says(text(row, "framework"), "megatron.*(v2|20)")
    return says(kernel, *WRITTEN)


@dataclass(frozen=True)
class Checkpointing:
    """policy: of layers that are not checkpointed whole. core: is attention's core computed again?
    parts, of: how many layers, of how many (0: of a stage's), are checkpointed whole."""

    policy: str = "none"
    core: bool = False
    parts: int = 0
    of: int = 1

    def share(self, layers: float) -> float:
        """Of layers that are checkpointed whole. layers: how many a pipeline rank has."""
        return min(1.0, self.parts / (self.of or layers))


def checkpointing(row: Row) -> Checkpointing:
    return _checkpointing(text(row, "act_ckpt"), text(row, "framework"))


@lru_cache(maxsize=1024)
def _checkpointing(given: str, framework: str) -> Checkpointing:
    if given in EMPTY or given in ("no", "0", "false", "off", "disabled"):
        return Checkpointing()
    found = re.search(r"(\d+)", given)
    if says(given, "every", "layer") and says(given, "selective", "every") and found:
        return Checkpointing(parts=1, of=int(found[1]))
    if says(given, "block", "uniform", "layers") and found:
        return Checkpointing(parts=int(found[1]), of=0)
    if percent := re.search(r"(\d+)\s*%", given):
        return Checkpointing(parts=int(percent[1]), of=100)
    if says(given, "core", "attn", "attention"):
        return Checkpointing(core=True)
    if says(given, "select", r"\bop\b", "sac", "partial"):
        if says(framework, *MEGATRON):
            return Checkpointing(core=True)
        if "titan" in framework:
            # Every other matmul's output: of LLaMA's seven, 3/8 of the arithmetic again.
            return Checkpointing("selective", parts=3, of=8)
        return Checkpointing("selective")
    return Checkpointing(parts=1)


def gathers_again(row: Row) -> bool:
    """Are sequence-parallel inputs of linear layers gathered anew for the backward pass?"""
    return says(text(row, "framework"), *MEGATRON)


def splits_positions(row: Row) -> bool:
    """Do tensor ranks share what lies between matmuls, where the row does not say?"""
    return says(text(row, "framework"), *CORE) or not says(text(row, "framework"), *MEGATRON)


def sharding_of(row: Row) -> Sharding:
    given = re.sub(r"[-_ ]", "", text(row, "dp_sharding"))
    if says(given, "fullshard", "fsdp", "zero(stage)?3", "stage3", "hybrid", "hsdp"):
        return "zero3"
    if says(given, "shardgradop", "zero(stage)?2", "stage2"):
        return "zero2"
    if says(given, "zero(stage)?1", "stage1", "distopt", "distributedopt", "optimizer"):
        return "zero1"
    if not given:
        framework = text(row, "framework")
        if "fsdp" in framework or "titan" in framework:
            return "zero3"
        if says(framework, *CORE):
            return "zero1"
    return "none"
