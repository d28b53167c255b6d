"""Convert a row of published measurements to a `Setting` and its Program.

The columns are those of `benchmarks/plan_accuracy.py`'s table: model, machine and layout. An empty
column takes the framework's default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from llamac.ir.program import Program
from llamac.plan.cost.framework import StageSplit
from llamac.plan.device.device import Device, DeviceError, find_device
from llamac.plan.published.decoder import decoder_of
from llamac.plan.published.framework_rules import (
    NANOTRON,
    checkpointing,
    framework_of,
    materialises_scores,
    profile_of,
    regathers_inputs,
    sharding_of,
    splits_positions,
    unread_values,
)
from llamac.plan.published.rows import (
    EMPTY,
    Row,
    RowError,
    count,
    flag,
    mentions,
    number,
    required_count,
    text,
)
from llamac.plan.search.graph_cache import block_program, with_layout
from llamac.plan.setting import Setting
from llamac.spec import Spec, SpecError

WIRE = 0.85  # fraction of a network port's nominal rate that a large transfer reaches
UNSUPPORTED = {
    r"moe|mixtral|mixture.of.experts|\d+x\d+b|switch|deepseek": "mixtures of experts",
    r"\bt5|bert|vit\b|encoder|mamba|\bssm|rwkv|diffusion": "models other than decoders",
    r"offload|infinity": "state kept off the GPU",
    r"\blora|qlora|peft": "adapters",
}
"""Features that no spec can express, by a regular expression for their names in columns."""


@dataclass(frozen=True)
class PublishedRun:
    """Setting of a published row, and its compiled Program.

    unread: (column, value, assumption made instead) for each value that is not understood.
    """

    setting: Setting
    program: Program
    unread: tuple[tuple[str, str, str], ...] = ()


def published_run(row: Row) -> PublishedRun:
    """Return the run that a row describes, with its compiled Program.

    Raises RowError if a column is invalid or a spec cannot express the run.
    """
    words_in_row = text(row, "model", "family", "mlp", "framework", "dp_sharding", "notes")
    for pattern, feature in UNSUPPORTED.items():
        if mentions(words_in_row, pattern):
            raise RowError(f"{feature} are beyond what a spec can say")
    try:
        device = _device(row)
        layout = _layout(row)
        spec = _spec(row, layout, device)
    except SpecError as error:
        raise RowError(f"no such model or layout: {str(error).splitlines()[0]}") from error
    except DeviceError as error:
        raise RowError(str(error)) from error
    profile = profile_of(row, device, decoder_of(row).llama)
    if checkpointing(row).share(spec.model.n_layers / spec.parallel.pipeline) < 1:
        profile = replace(profile, recomputes_head=False)
    dtype = text(row, "dtype")
    setting = Setting(
        spec,
        device,
        profile,
        sharding=sharding_of(row),
        fp8=mentions(dtype, "fp8", "fp4"),
        recomputes_attention=checkpointing(row).core and materialises_scores(row),
        micro_batches=layout.micro_batches,
    )
    return PublishedRun(setting, _program(setting, row), tuple(unread_values(row, device)))


# -- computation ------------------------------------------------------------------------------


def _program(setting: Setting, row: Row) -> Program:
    """Return a row's Program, whose layers use one checkpointing policy or a mix of two."""
    spec, fused = setting.spec, setting.profile.fused
    layers, stages = spec.model.n_layers, layers_of_stages(spec, setting.profile.stages)
    checkpoint = checkpointing(row)
    share = checkpoint.share(layers / spec.parallel.pipeline)
    policy = (
        "regather" if checkpoint.policy == "none" and regathers_inputs(row) else checkpoint.policy
    )
    if share in (0.0, 1.0):
        policy = policy if share == 0 else "full"
        return with_layout(block_program(spec, policy, fused), spec, stages)
    plain, full = (block_program(spec, policy_name, fused) for policy_name in (policy, "full"))
    region = replace(full.regions["block"], name="block_full")
    is_full = [int((n + 1) * share) > int(n * share) for n in range(layers)]
    names = ["block_full" if full_layer else "block" for full_layer in is_full]
    return with_layout(plain, spec, stages, names, [region])


def layers_of_stages(spec: Spec, split: StageSplit) -> list[int]:
    """Return the number of layers of each pipeline stage, at least 1.

    split: quantity that is divided evenly, as in `FrameworkProfile.stages`.
    """
    layers, parts = spec.model.n_layers, spec.parallel.stages
    if split == "cost":
        counts = _by_cost(spec)
    else:
        ends = split == "modules" and parts > 1
        modules = layers + (3 if ends else 0)  # embedding, final norm and head
        counts = [modules // parts + (stage < modules % parts) for stage in range(parts)]
        if ends:
            counts[0] -= 1
            counts[-1] -= 2
    while min(counts) < 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(min(counts))] += 1
    return counts


def _by_cost(spec: Spec) -> list[int]:
    """Return the layers of each stage by nanotron's rule (`build_model` in its models/base.py).

    A stage ends after the module with which the weights of layers and head exceed its share.
    """
    model, parts = spec.model, spec.parallel.stages
    layer = 4 * model.dim * model.dim + (3 if model.gated else 2) * model.dim * model.ffn_dim
    total = model.n_layers * layer + model.vocab_size * model.dim
    counts, stage = [0] * parts, 0
    for layers in range(1, model.n_layers + 1):
        counts[stage] += 1
        stage = min(parts - 1, stage + (layers * layer > total * (stage + 1) / parts))
    return counts


@dataclass(frozen=True)
class RowLayout:
    """Parallel degrees and micro-batches of a row.

    Attributes:
        tp, pp, cp, data: Degrees of tensor, pipeline, context and data parallelism.
        vpp: Stages per pipeline rank.
        micro: Sequences per micro-batch.
        micro_batches: Micro-batches per data-parallel rank and step.
    """

    tp: int
    pp: int
    vpp: int
    cp: int
    data: int
    micro: int
    micro_batches: int


def _layout(row: Row) -> RowLayout:
    """Return a row's layout, with defaults for empty columns."""
    tp, pp, cp = (count(row, key) or 1 for key in ("tp", "pp", "cp"))
    data = _data_ranks(row, tp, pp, cp)
    micro, times = _micro_batches(row, pp, data)
    return RowLayout(tp, pp, _virtual(row, pp), cp, data, micro, times)


def _data_ranks(row: Row, tp: int, pp: int, cp: int) -> int:
    """Return the data-parallel degree: column `dp`, or all remaining GPUs."""
    gpus, data = count(row, "n_gpus"), count(row, "dp")
    if data is None:
        return max(1, (gpus or tp * pp * cp) // (tp * pp * cp))
    if gpus is not None and tp * pp * cp * data > gpus >= tp * pp * data:
        return max(1, gpus // (tp * pp * cp))  # some count context ranks among data ranks
    return data


def _micro_batches(row: Row, pp: int, data: int) -> tuple[int, int]:
    """Return (sequences per micro-batch, micro-batches per data-parallel rank per step)."""
    micro, times, total = count(row, "mbs"), count(row, "grad_accum"), _sequences(row)
    if times is None and total is not None:
        times = max(1, total // ((micro or 1) * data)) if micro or pp > 1 else None
    if micro is None:
        micro = max(1, (total or data) // (data * (times or 1)))
        if times is None and total is not None:
            micro, times = _default_micro_batch(micro, required_count(row, "seq_len"))
    times = times or (4 * pp if pp > 1 else 1)
    if pp > 1 and times == 1 and micro >= pp:
        # torchtitan's batch of a rank, which the schedule cuts into as many parts as stages.
        times, micro = pp, micro // pp
    return micro, times


def _sequences(row: Row) -> int | None:
    """Return the sequences per step, or None if the row does not give them."""
    tokens, length = number(row, "gbs_tokens"), number(row, "seq_len")
    sequences = round(tokens / length) if tokens and length else None
    return count(row, "gbs_seqs") or sequences


def _default_micro_batch(sequences: int, length: int, tokens: int = 8192) -> tuple[int, int]:
    """Return a default (micro-batch size, count) for a rank's sequences."""
    largest = max(1, tokens // length)
    micro = max(n for n in range(1, min(largest, sequences) + 1) if sequences % n == 0)
    return micro, sequences // micro


def _virtual(row: Row, stages: int) -> int:
    if stages == 1 or not text(row, "vpp"):
        return 1
    return 2 if text(row, "vpp").startswith(">") else count(row, "vpp") or 1


@lru_cache(maxsize=1)
def _base() -> Spec:
    """Return a minimal spec whose sizes a row replaces."""
    source = {"name": "none", "kind": "python-docs", "share": 1.0}
    return Spec.model_validate(
        {
            "name": "row",
            "model": {"dim": 128, "n_layers": 1, "n_heads": 1, "position": "learned"},
            "data": {"source": [source]},
            "batch": {"sequence_length": 128, "sequences": 1, "micro_batch": 1},
            "optimizer": {"lr": 1e-4},
            "schedule": {"steps": 10, "warmup_steps": 1},
            "hardware": {"device": "cuda"},
        }
    )


def _spec(row: Row, layout: RowLayout, device: Device) -> Spec:
    shape = decoder_of(row)
    llama = shape.llama
    sharded = sharding_of(row) == "zero3"
    sequence_parallel = flag(row, "sp")
    splits = (
        splits_positions(row, framework_of(row, device), llama)
        if sequence_parallel is None
        else sequence_parallel
    )
    tied = shape.tied and layout.pp == 1  # a pipeline's last stage has a copy of its own
    # llamac's schedules need a micro-batch per stage; `Setting` has the row's number.
    times = max(layout.micro_batches, layout.pp)
    times += -times % layout.pp if layout.vpp > 1 else 0
    dtype = text(row, "dtype")
    return _replace_cached(
        (
            ("model.dim", shape.dim),
            ("model.n_layers", shape.layers),
            ("model.n_heads", shape.heads),
            ("model.n_kv_heads", shape.kv_heads),
            ("model.head_dim", None),
            ("model.ffn_dim", shape.ffn),
            ("model.vocab_size", shape.vocab),
            ("model.activation", "swiglu" if shape.gated else "gelu"),
            ("model.norm", "rmsnorm" if llama else "layernorm"),
            ("model.position", "rope" if llama else "learned"),
            ("model.bias", shape.bias),
            ("model.tied_embeddings", tied),
            ("batch.sequence_length", required_count(row, "seq_len")),
            ("batch.micro_batch", layout.micro),
            ("batch.sequences", layout.micro * times * layout.data),
            ("parallel.tensor", layout.tp),
            ("parallel.sequence", layout.tp > 1 and splits),
            ("parallel.context", layout.cp),
            ("parallel.pipeline", layout.pp),
            ("parallel.pipeline_virtual", layout.vpp),
            ("parallel.data_shard", layout.data if sharded else 1),
            ("parallel.data_replicate", 1 if sharded else layout.data),
            (
                "precision.compute",
                "fp32" if mentions(dtype, "^fp32", "tf32", "float32") else "bf16",
            ),
            ("recompute.policy", "none"),
            ("kernels.attention", "math" if materialises_scores(row) else "sdpa"),
            ("kernels.loss_chunk", 2**30),
        )
    )


@lru_cache(maxsize=4096)
def _replace_cached(changes: tuple[tuple[str, object], ...]) -> Spec:
    return _base().replace(dict(changes))


# -- device -------------------------------------------------------------------------------


def _device(row: Row) -> Device:
    if text(row, "gpu") in EMPTY:
        raise RowError("column gpu is empty")
    # Hugging Face's cluster, on which nanotron was measured, has EFA between its nodes.
    efa = " efa" if mentions(text(row, "framework"), *NANOTRON) else ""
    device = find_device(text(row, "gpu") + efa)
    if per_node := count(row, "gpus_per_node"):
        device = replace(device, gpus_per_node=per_node)
    if rate := number(row, "internode_bw_gbps_per_gpu"):
        network = replace(device.network, bandwidth=rate * 1e9 / 8 * WIRE)
        device = replace(device, network=network)
    return device
