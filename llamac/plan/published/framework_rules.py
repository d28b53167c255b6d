"""Rules that derive kernels, checkpointing and state sharding from a published row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from llamac.passes.analysis.peak_memory import Sharding
from llamac.plan.cost.framework import (
    AUTOCAST_TRAFFIC,
    DDP_BUCKET,
    FRAMEWORKS,
    FUSED_SOFTMAX,
    OP_BY_OP_RMS_NORM,
    OP_BY_OP_ROPE,
    SOFTMAX_DROPOUT,
    TORCH_SOFTMAX,
    FrameworkProfile,
    ScoreTraffic,
)
from llamac.plan.device.device import Device
from llamac.plan.published.rows import EMPTY, Row, count, flag, mentions, text

ALEPH_ALPHA = (r"aleph", r"\baa.?scaling", r"^scaling\b", "hagemann")
NANOTRON = ("nanotron", "ultrascale")
COMPILED = ("compile", "inductor", "nanogpt", "jax", "maxtext", "xla", "olmo-core")
MEGATRON = ("megatron", "nemo", "bloom", "transformer.engine", r"\bmcore")
CORE = ("nemo", "transformer.engine", "core", r"\bte\b")
EAGER = (
    "titan",
    "foundry",
    "composer",
    "fsdp",
    "deepspeed",
    "pytorch",
    "hugging",
    "transformers",
    "litgpt",
)
EAGER += ("lightning", "accelerate", "neox", "axolotl", "fairscale", "metaseq", r"\beager\b")

FIRST_FLASH = ("triton", r"v1\b", r"flash.?att\w*.?v?1", r"\bfa1?\b(?!\d)")
LATEST_FLASH = (r"fa.?3", r"flash.?att.*3", "cudnn", r"\bte\b", "fused.att")
FLASH = ("flash", r"\bfa\d?", "sdpa", "xformers", "mem.*eff", "flex", "splash", *FIRST_FLASH)
FUSED_SCORES = (r"fused.?softmax", r"^(megatron.)?fused( kernels?)?$", r"scaled.*softmax")
TORCH_SCORES = ("unfused", "math", "no.?flash", "eager", "naive", r"^no$", "vanilla")
TORCH_SCORES += (r"^(py)?torch$",)

FUSED_NORM = r"(fused|apex|triton|te|cuda)[ _-]*(rms[ _-]*)?norm|rms[ _-]*(norm)?[ _-]*kern"
NO_FUSED_NORM = r"\b(no|without|w/o|non|not)[ _-]*(a[ _-]*)?(fused[ _-]*)?rms|unfused.*norm"
MEGATRON_SCORES = replace(SOFTMAX_DROPOUT, kernels=16.0)

ROWWISE = 0.524
"""Speed of row-wise scaled fp8 matmuls relative to the device's fp8 matmuls, which is little more
than bf16's (torchtitan)."""


def framework_of(row: Row, device: Device) -> str:
    """Return the key of `FRAMEWORKS` that describes a row's framework best.

    device: the row's device; on Hopper and later, Megatron-LM counts as Megatron Core, unless its
    attention materialises scores.
    """
    words, framework = text(row, "framework", "notes"), text(row, "framework")
    if mentions(framework, *ALEPH_ALPHA) or mentions(
        text(row, "source"), "aleph", "hagemann", "2311.05610"
    ):
        return "aleph-alpha"
    if mentions(framework, *NANOTRON):
        return "nanotron"
    if mentions(words, *MEGATRON):
        is_core = mentions(words, *CORE) or device.has_async_matmuls
        return "megatron-core" if is_core and not materialises_scores(row) else "megatron"
    if mentions(words, *COMPILED) and not mentions(words, r"\beager\b", "no.compile"):
        return "compiled"
    if not mentions(words, *EAGER) and sharding_of(row) == "zero1" and _splits_model(row):
        return "aleph-alpha"  # as ZeRO-1 over tensor and pipeline parallelism is written by hand
    return "eager"


def _splits_model(row: Row) -> bool:
    return max(count(row, "tp") or 1, count(row, "pp") or 1) > 1


def profile_of(row: Row, device: Device, llama: bool) -> FrameworkProfile:
    """Return the profile of a row's framework, adjusted to the kernels and options that it names.

    llama: whether the model has RMSNorm and rotary positions.
    """
    words, name = text(row, "framework", "notes"), framework_of(row, device)
    profile = FRAMEWORKS[name]
    if mentions(words, "async.?tp", "userbuffer", r"\bub\b", "tp.comm.overlap"):
        profile = replace(profile, hides=profile.hides_async)
    profile = _overlap(row, name, profile)
    if name in ("eager", "compiled") and sharding_of(row) == "none":  # DistributedDataParallel
        profile = replace(profile, bucket_bytes=DDP_BUCKET)
    # llm-foundry's pure precision and NeMo's `grad_sync_dtype` reduce gradients in bf16.
    if mentions(text(row, "dp_sharding"), "pure") or mentions(text(row, "framework"), "nemo"):
        profile = replace(profile, wire_bytes=2)
    if mentions(words, "foundry", "composer"):
        profile = replace(profile, logit_bytes=4.0)  # its fused loss works in place
    if name == "eager" and mentions(text(row, "dtype"), "amp", "autocast"):
        profile = replace(profile, traffic=AUTOCAST_TRAFFIC)
    if "rowwise" in text(row, "dtype"):
        profile = replace(profile, fp8=ROWWISE)
    if llama and name in ("eager", "megatron", "aleph-alpha", "nanotron"):
        profile = replace(profile, rope=OP_BY_OP_ROPE)
        if not fused_norm(row) and name != "nanotron":  # whose norm is FlashAttention's kernel
            profile = replace(profile, norm=OP_BY_OP_RMS_NORM, norm_saved_bytes=8.0)
    scores = scores_of(row, llama)
    return replace(profile, scores=scores, attention=_attention_speed(row, device, name))


def _overlap(row: Row, name: str, profile: FrameworkProfile) -> FrameworkProfile:
    """Return the profile with the overlap of data-parallel traffic that a row states.

    Otherwise ZeRO-1 and 2 reduce and gather at the end of a step, except for Megatron Core's
    distributed optimizer and nanotron, which reduces as DistributedDataParallel does.
    """
    sharding = text(row, "dp_sharding")
    if mentions(sharding, "non.overlapped", "no overlap"):
        return replace(profile, overlapped=False, gathers_ahead=False)
    if mentions(sharding + text(row, "framework", "notes"), "overlap"):
        return replace(profile, overlapped=True, gathers_ahead=True)
    if sharding_of(row) in ("zero1", "zero2") and name not in ("megatron-core", "nanotron"):
        return replace(profile, overlapped=False)
    return profile


def _attention_speed(row: Row, device: Device, name: str) -> float:
    kernel = _attention_kernel(row)
    if mentions(kernel, *LATEST_FLASH) or (name == "megatron-core" and not mentions(kernel, "2")):
        return 1.0
    return device.flash1 if mentions(kernel, *FIRST_FLASH) else device.flash2


def fused_norm(row: Row) -> bool:
    """Return whether a row names a fused RMSNorm kernel, without a negation."""
    words = text(row, "attn_kernel", "notes", "framework")
    return mentions(words, FUSED_NORM) and not mentions(words, NO_FUSED_NORM)


def _attention_kernel(row: Row) -> str:
    """Return the kernel that attn_kernel names: `flash_attn2 + RMS kernel` → `flash_attn2`."""
    joined = r"\s*(?:[+&,;(]|\bwith\b|\band\b|w/).*\brms"
    return re.split(joined, text(row, "attn_kernel"))[0].strip()


def scores_of(row: Row, llama: bool) -> ScoreTraffic | None:
    """Return the traffic of a row's attention scores; None if they are not materialised.

    llama: whether the model has RMSNorm and rotary positions, and therefore no dropout.
    """
    if not materialises_scores(row):
        return None
    kernel, megatron = _attention_kernel(row), mentions(text(row, "framework"), *MEGATRON)
    if megatron and not llama:
        return MEGATRON_SCORES
    fused = mentions(kernel, *FUSED_SCORES) or (megatron and not mentions(kernel, *TORCH_SCORES))
    return FUSED_SOFTMAX if fused else TORCH_SOFTMAX


def materialises_scores(row: Row) -> bool:
    """Return whether a row's attention materialises its scores, as before FlashAttention.

    If the row names no kernel, this holds on V100 and for early Megatron-LM.
    """
    kernel, framework = _attention_kernel(row), text(row, "framework")
    if kernel in EMPTY:
        return mentions(text(row, "gpu"), "v100") or mentions(framework, "megatron.*(v2|20)")
    if kernel == "fused" and mentions(framework, *CORE):
        return False  # cuDNN's fused attention
    return mentions(kernel, *FUSED_SCORES, *TORCH_SCORES)


NO = ("0", "n")
NOT = r"(^|=\s*)(none|no|not|off|false|disabled|without|w/o)(?![a-z])"
FULL = ("full", r"every.?layer", r"each.?layer", r"\ball\b", "whole", "uniform", "block", "layer")
FULL += (r"^(1|true|yes|y|on|enabled)$", r"^(activation )?(re)?comput(e|ation)$")
FULL += ("checkpoint", r"\bckpt\b", r"every\w*stage")


@dataclass(frozen=True)
class Checkpointing:
    """Activation checkpointing of a row.

    Attributes:
        policy: Checkpointing policy of layers that are not fully checkpointed.
        core: Whether core attention (scores, softmax and their product with the values) is
            recomputed in the backward pass.
        parts, out_of: `parts` of every `out_of` layers are fully checkpointed; out_of = 0: of the
            layers of a pipeline rank.
        understood: Whether the column was understood; otherwise no checkpointing is assumed.
    """

    policy: str = "none"
    core: bool = False
    parts: int = 0
    out_of: int = 1
    understood: bool = True

    def share(self, layers: float) -> float:
        """Return the fraction of fully checkpointed layers. layers: layers of a pipeline rank."""
        return min(1.0, self.parts / (self.out_of or layers))


def checkpointing(row: Row) -> Checkpointing:
    """Return the activation checkpointing that a row's column `act_ckpt` describes."""
    return _checkpointing(text(row, "act_ckpt"), text(row, "framework"))


@lru_cache(maxsize=1024)
def _checkpointing(column: str, framework: str) -> Checkpointing:
    if column in EMPTY or column in NO or mentions(column, NOT):
        return Checkpointing()
    if fraction := re.search(r"(\d+)\s*(?:of|/)\s*(\d+)", column):
        return Checkpointing(parts=int(fraction[1]), out_of=max(1, int(fraction[2])))
    number = re.search(r"(\d+)", column)
    if mentions(column, "every", "layer") and mentions(column, "selective", "every") and number:
        return Checkpointing(parts=1, out_of=int(number[1]))
    if mentions(column, "block", "layers") and not mentions(column, "uniform") and number:
        return Checkpointing(parts=int(number[1]), out_of=0)
    if percent := re.search(r"(\d+)\s*%", column):
        return Checkpointing(parts=int(percent[1]), out_of=100)
    if mentions(column, "core", "attn", "attention"):
        return Checkpointing(core=True)
    if mentions(column, "select", r"\bop\b", "sac", "partial"):
        if mentions(framework, *MEGATRON):
            return Checkpointing(core=True)
        if "titan" in framework:
            # Every other matmul's output: of LLaMA's seven, 3/8 of the arithmetic again.
            return Checkpointing("selective", parts=3, out_of=8)
        return Checkpointing("selective")
    if mentions(column, *FULL):
        return Checkpointing(parts=1)
    return Checkpointing(understood=False)


def regathers_inputs(row: Row) -> bool:
    """Return whether the backward pass gathers sequence-parallel inputs of linear layers again.

    Megatron does; nanotron saves the gathered inputs.
    """
    return mentions(text(row, "framework"), *MEGATRON)


def splits_positions(row: Row, name: str, llama: bool) -> bool:
    """Return whether a framework uses sequence parallelism if the row does not say.

    name: key of `FRAMEWORKS`. llama: whether the model has RMSNorm and rotary positions.
    """
    if name == "aleph-alpha":  # `sequence_parallel` is off unless asked for
        return False
    framework = text(row, "framework")
    return llama or mentions(framework, *CORE) or not mentions(framework, *MEGATRON)


def sharding_of(row: Row) -> Sharding:
    """Return the ZeRO stage of a row: `zero3` also for FSDP and HSDP, `none` for plain replicas.

    An empty column takes the framework's default.
    """
    column = re.sub(r"[-_ ]", "", text(row, "dp_sharding"))
    if mentions(column, "fullshard", "fsdp", "zero(stage)?3", "stage3", "hybrid", "hsdp"):
        return "zero3"
    if mentions(column, "shardgradop", "zero(stage)?2", "stage2"):
        return "zero2"
    if mentions(column, "zero(stage)?1", "stage1", "distopt", "distributedopt", "optimizer"):
        return "zero1"
    if not column:
        framework = text(row, "framework")
        if "fsdp" in framework or "titan" in framework:
            return "zero3"
        if mentions(framework, *CORE):
            return "zero1"
    return "none"


KNOWN_SHARDING = ("shard", "fsdp", "zero", "stage", "hybrid", "hsdp", "dist", "optim", "ddp")
KNOWN_DTYPES = ("bf16", "bfloat", "fp", "float", "half", "tf32", "amp", "mixed")
KNOWN_MLPS = ("gelu", "relu", "silu", "glu", "gated", "standard", "mlp")


def unread_values(row: Row, device: Device) -> Iterator[tuple[str, str, str]]:
    """Yield (column, value, assumption made instead) for each value that no rule understands."""
    kernel, mlp = _attention_kernel(row), text(row, "mlp")
    known = (*FLASH, *LATEST_FLASH, *FUSED_SCORES, *TORCH_SCORES)
    if kernel not in EMPTY and not mentions(kernel, *known):
        yield "attn_kernel", text(row, "attn_kernel"), "FlashAttention"
    if not checkpointing(row).understood:
        yield "act_ckpt", text(row, "act_ckpt"), "none"
    sharding = text(row, "dp_sharding")
    plain = sharding in EMPTY or re.match(r"(none|no|0)\b", sharding)
    if not plain and not mentions(sharding, *KNOWN_SHARDING):
        yield "dp_sharding", sharding, "none"
    framework = text(row, "framework")
    families = (*ALEPH_ALPHA, *NANOTRON, *COMPILED, *MEGATRON, *EAGER)
    if framework not in EMPTY and not mentions(framework, *families):
        yield "framework", framework, f"the profile {framework_of(row, device)!r}"
    if text(row, "sp") not in EMPTY and flag(row, "sp") is None:
        yield "sp", text(row, "sp"), "the framework's default"
    if mlp not in EMPTY and not mentions(mlp, *KNOWN_MLPS):
        yield "mlp", mlp, "no gate"
    dtype = text(row, "dtype")
    if dtype not in EMPTY and not mentions(dtype, *KNOWN_DTYPES):
        yield "dtype", dtype, "bf16"
