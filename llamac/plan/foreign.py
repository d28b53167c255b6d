"""Other frameworks' runs as settings of ours: a row of published measurements → `Setting`.

The columns are those of `benchmarks/plan_accuracy.py`'s table: what the model is, what it ran on,
how it was laid out. What a row leaves empty is what its framework does by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from llamac.ir.program import Program
from llamac.passes.footprint import Sharding
from llamac.plan.blocks import block_program, laid_out
from llamac.plan.device import Device, DeviceError, Link, load_device
from llamac.plan.predict import Setting
from llamac.plan.style import STYLES, Style
from llamac.spec import Spec, SpecError, load_spec

WIRE = 0.85  # of a network port's nominal rate, what a large transfer gets


class RowError(ValueError):
    """A row that cannot be read as a run; says which column, and what it may be."""

    exit_code = 2


@dataclass(frozen=True)
class Run:
    """A setting and its Program, with micro-batches of the row's size."""

    setting: Setting
    program: Program


def foreign_run(row: Mapping[str, str]) -> Run:
    """What a row describes. Raises RowError."""
    try:
        spec, device = _spec(row), _device(row)
    except SpecError as error:
        name, message = row.get("model", "a row"), str(error).splitlines()[0]
        raise RowError(f"{name}: no such model or layout: {message}") from error
    except DeviceError as error:
        raise RowError(str(error)) from error
    style = _style(row)
    checkpoint = _text(row, "act_ckpt")
    setting = Setting(
        spec,
        device,
        style,
        sharding=_sharding(row),
        fp8="fp8" in _text(row, "dtype") and "rowwise" not in _text(row, "dtype"),
        core_again="core" in checkpoint,
    )
    return Run(setting, _program(setting, _alternate(checkpoint)))


def _program(setting: Setting, every: int) -> Program:
    """every: the layers of which one is checkpointed whole."""
    spec, fused = setting.spec, setting.style.fused
    count, parts = spec.model.n_layers, spec.parallel.stages
    stages = [count // parts + (stage < count % parts) for stage in range(parts)]
    if every == 1:
        return laid_out(block_program(spec, spec.activation.checkpoint, fused), spec, stages)
    plain, full = (block_program(spec, policy, fused) for policy in ("none", "full"))
    region = replace(full.regions["block"], name="block_full")
    layers = ["block_full" if number % every == 0 else "block" for number in range(count)]
    return laid_out(plain, spec, stages, layers, [region])


@lru_cache(maxsize=1)
def _base() -> Spec:
    """A spec whose every size a row replaces."""
    ours = load_spec("65b").replace({"parallel.tensor": 1, "parallel.data_shard": 1})
    return ours.replace(
        {
            "batch.tokens": None,
            "batch.sequences": 1,
            "model.multiple_of": 1,
            "model.rope_theta": None,
            "hardware.device": "cuda",
        }
    )


def _spec(row: Mapping[str, str]) -> Spec:
    degrees = {key: _count(row, key, 1) for key in ("tp", "pp", "cp")}
    gpus = _count(row, "n_gpus")
    share = degrees["tp"] * degrees["pp"] * degrees["cp"]
    data = _count(row, "dp", max(1, gpus // share))
    micro, times = _count(row, "mbs", 1), _count(row, "grad_accum", 0)
    if degrees["pp"] > 1 and times <= 1 and micro >= degrees["pp"]:
        # torchtitan's batch of a rank, which the schedule cuts into as many parts as stages.
        times, micro = degrees["pp"], micro // degrees["pp"]
    total = _count(row, "gbs_seqs", 0)
    times = times or max(1, total // (micro * data))
    heads, dim = _count(row, "n_heads"), _count(row, "d_model")
    llama = "llama" in _text(row, "family") or "swiglu" in _text(row, "mlp")
    sharded = _sharding(row) == "zero3"
    degrees["sp"] = _count(row, "sp", int(llama)) and degrees["tp"] > 1
    checkpoint = _text(row, "act_ckpt")
    return _base().replace(
        {
            "model.dim": dim,
            "model.n_layers": _count(row, "n_layers"),
            "model.n_heads": heads,
            "model.n_kv_heads": _count(row, "n_kv_heads", heads),
            "model.ffn_dim": _count(row, "d_ffn", 0) or None,
            "model.vocab_size": _count(row, "vocab", 32_000),
            "model.activation": "swiglu" if "swiglu" in _text(row, "mlp") or llama else "gelu",
            "model.norm": "rmsnorm" if llama else "layernorm",
            "model.position": "rope" if llama else "learned",
            "model.bias": "megatron" in _text(row, "framework"),
            # A pipeline's last stage has a copy of its own.
            "model.tied_embeddings": _text(row, "tied_emb") in ("1", "true", "yes")
            and degrees["pp"] == 1,
            "batch.sequence_length": _count(row, "seq_len"),
            "batch.micro_batch": micro,
            "batch.sequences": micro * times * data,
            "parallel.tensor": degrees["tp"],
            "parallel.sequence": bool(degrees["sp"]),
            "parallel.context": degrees["cp"],
            "parallel.pipeline": degrees["pp"],
            "parallel.pipeline_virtual": _virtual(row, degrees["pp"]),
            "parallel.data_shard": data if sharded else 1,
            "parallel.data_replicate": 1 if sharded else data,
            "precision.compute": "fp32" if _text(row, "dtype") in ("fp32", "tf32") else "bf16",
            "activation.checkpoint": _policy(checkpoint),
            "kernels.attention": "math" if _unfused(row) else "sdpa",
            "kernels.loss_chunk": 2**30,
        }
    )


def _virtual(row: Mapping[str, str], stages: int) -> int:
    if _text(row, "vpp").startswith(">"):
        return 2
    return _count(row, "vpp", 1) if stages > 1 else 1


def _policy(text: str) -> str:
    """`selective(attn core)` keeps all but the core, `selective-layer` checkpoints some layers."""
    if text in ("", "none", "no", "0") or "core" in text or "layer" in text:
        return "none"
    return "selective" if "selective" in text or "op" in text else "full"


def _alternate(text: str) -> int:
    """Of `selective-layer(every 2)`, the 2."""
    found = re.search(r"layer.*?(\d+)", text)
    return int(found[1]) if found else 1


def _unfused(row: Mapping[str, str]) -> bool:
    kernel = _text(row, "attn_kernel")
    words = ("unfused", "math", "no flash", "no-flash", "fused-softmax")
    return any(word in kernel for word in words)


def _sharding(row: Mapping[str, str]) -> Sharding:
    text = _text(row, "dp_sharding").replace("-", "").replace("_", "").replace(" ", "")
    if any(word in text for word in ("fullshard", "fsdp", "zero3", "hybrid", "hsdp")):
        return "zero3"
    if any(word in text for word in ("shardgradop", "zero2")):
        return "zero2"
    return "zero1" if any(word in text for word in ("zero1", "dist", "optimizer")) else "none"


def _style(row: Mapping[str, str]) -> Style:
    text = " ".join(_text(row, key) for key in ("framework", "notes"))
    style = STYLES["eager"]
    if any(word in text for word in ("megatron", "nemo")):
        style = STYLES["megatron"]
    elif ("titan" in text and "eager" not in text) or "compile" in text:
        style = STYLES["compiled"]
    if "non-overlapped" in _text(row, "dp_sharding"):
        style = replace(style, overlapped=False)
    return replace(style, flash=not _unfused(row))


DEVICES = {
    r"a100.*40": "a100-40gb",
    r"a100": "a100-80gb",
    r"a800": "a800",
    r"h100.*(96|500w)": "h100-96gb-500w",
    r"h100.*pcie": "h100-pcie",
    r"h800": "h800",
    r"h100": "h100-sxm",
    r"gh200": "h200",
    r"h200": "h200",
    r"b200|gb200": "b200",
    r"v100": "v100",
    r"mi250": "mi250x",
    r"mi300": "mi300x",
}
"""How publications write GPUs, and our names for them; the first that matches."""


def _device(row: Mapping[str, str]) -> Device:
    text = _text(row, "gpu")
    name = next((name for pattern, name in DEVICES.items() if re.search(pattern, text)), text)
    device = load_device(name)
    if given := _count(row, "gpus_per_node", 0):
        device = replace(device, gpus_per_node=given)
    if rate := float(row.get("internode_bw_gbps_per_gpu") or 0):
        link = Link(bandwidth=rate * 1e9 / 8 * WIRE, latency=device.network.latency)
        device = replace(device, network=link)
    return device


def _text(row: Mapping[str, str], key: str) -> str:
    return (row.get(key) or "").strip().lower()


def _count(row: Mapping[str, str], key: str, default: int | None = None) -> int:
    text = _text(row, key)
    if not text:
        if default is None:
            raise RowError(f"{row.get('model') or 'a row'}: column {key} is empty")
        return default
    try:
        return int(float(text))
    except ValueError as error:
        raise RowError(f"column {key} is {text!r}: give a whole number") from error
