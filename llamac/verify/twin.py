"""Shrink a spec to its twin: the same features and ratios at sizes that run in a second.

Everything that passes depend on stays: norms, positions, biases, tied weights, policies, kernels,
and whether ranks split heads, positions and a vocabulary that does not divide.
"""

from __future__ import annotations

import math

from llamac.ir.graph import is_op, ops_in
from llamac.ops.attention import attention
from llamac.passes.pass_list import stages
from llamac.spec import Spec

# Largest sizes of a twin, before they are rounded up to divide over ranks; SEQUENCES is exact.
RANK = 3  # of adapters
LAYERS = 2  # the fewest that pass activations on
SEQUENCES = 2
POSITIONS = 23  # odd and prime, so that it cannot be confused with another size
VOCABULARY = 331  # a trained tokenizer has at least 320
KV_HEADS = 3
GROUP = 16  # query heads per kv head
DIM, FFN_DIM = 256, 1024
CUDA_ONLY = ("cudnn", "xformers")
"""Attention kernels that have no CPU implementation."""
UNSHARDED = ("pipeline", "pipeline_virtual", "data_shard", "data_replicate")
"""Degrees of [parallel] that are 1 in the twin."""


def shrink(spec: Spec) -> Spec:
    """Return the twin of a spec. Raises NoKernelError if the requested attention kernel cannot run.

    The twin runs on the CPU in float64, which cuDNN and xformers do not support, so the compiler
    chooses another kernel in place of these.
    """
    model = spec.model
    tensor, context = _ranks(spec)
    heads, kv_heads = _heads(model.n_heads, model.n_kv_heads, tensor)
    head_dim = _head_dim(model.head_dim)
    stretch = _clamp(model.dim / (model.n_heads * model.head_dim), 1 / 4, 4)
    dim = min(max(1, round(heads * head_dim * stretch)), DIM)
    ffn_dim = min(max(1, round(dim * _clamp(model.ffn_dim / model.dim, 1 / 4, 8))), FFN_DIM)
    ffn_dim = _round_up(ffn_dim, tensor)
    positions = _round_up(POSITIONS, math.lcm(tensor, 2) * context if tensor * context > 1 else 1)
    positions = min(spec.batch.sequence_length, positions)
    window = model.window(spec.batch.sequence_length)
    kernel = attention_kernel(spec)
    return spec.replace(
        {
            "model.n_layers": min(model.n_layers, LAYERS),
            "model.dim": dim,
            "model.n_heads": heads,
            "model.n_kv_heads": kv_heads,
            "model.head_dim": head_dim,
            "model.ffn_dim": ffn_dim,
            "model.sliding_window": window and min(window, max(1, positions // 3)),
            "model.vocab_size": min(model.vocab_size, VOCABULARY),
            "batch.sequence_length": positions,
            "batch.sequences": SEQUENCES,
            "batch.micro_batch": SEQUENCES,
            # Several chunks with a partial last one: 13 + 13 + 13 + 7 of 2 × 23 tokens.
            "kernels.loss_chunk": min(spec.kernels.loss_chunk, max(1, positions * 4 // 7)),
            "kernels.attention": "auto" if kernel in CUDA_ONLY else kernel,
            **({"finetune.rank": min(spec.finetune.rank, RANK)} if spec.finetune.is_lora else {}),
            "hardware.device": "cpu",
            "parallel.tensor": tensor,
            "parallel.context": context,
            # These shard or cut the compiled program between layers but do not change it.
            **dict.fromkeys(map("parallel.{}".format, UNSHARDED), 1),
        }
    )


def attention_kernel(spec: Spec) -> str:
    """Return the name of the attention kernel that the compiler chooses for a spec.

    Raises NoKernelError if the requested one cannot run.
    """
    *_, last = stages(spec, stop_after="select_kernels")
    program = last.program
    layer = program.regions[program.layers[0]].forward.graph  # all layers have the same attention
    return next(str(node.kwargs["kernel"]) for node in ops_in(layer) if is_op(node, attention))


def _ranks(spec: Spec) -> tuple[int, int]:
    """Return the smallest tensor and context degrees that split or copy heads as the spec's do."""
    tensor, kv_heads = spec.parallel.tensor, spec.model.n_kv_heads
    fewest = _prime_factor(tensor)
    if kv_heads % tensor:  # some ranks have copies of a key head
        copies = _prime_factor(tensor // kv_heads)
        fewest = copies * _prime_factor(kv_heads)
    return fewest, _prime_factor(spec.parallel.context)


def _heads(heads: int, kv_heads: int, tensor: int) -> tuple[int, int]:
    """Return the numbers of query and key heads, with the spec's divisibility by the ranks."""
    group = heads // kv_heads
    twin_kv_heads = min(kv_heads, KV_HEADS) if tensor == 1 else math.gcd(kv_heads, tensor)
    copies = tensor // twin_kv_heads if tensor > twin_kv_heads else 1
    return twin_kv_heads * copies * min(group // copies, max(1, GROUP // copies)), twin_kv_heads


def _prime_factor(number: int) -> int:
    """Return the smallest prime factor, or 1 for 1."""
    return next((n for n in range(2, number + 1) if number % n == 0), 1)


def _round_up(size: int, ranks: int) -> int:
    """Round a size up to a multiple of the ranks."""
    return -(-size // ranks) * ranks


def _head_dim(head_dim: int) -> int:
    """Return a head dimension below 16 with the same parity and alignment, which kernels check."""
    return head_dim if head_dim < 16 else 8 + head_dim % 8


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
