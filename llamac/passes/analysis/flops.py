"""FLOPs per training token, by PaLM's convention (Chowdhery et al. 2022, appendix B)."""

from __future__ import annotations

from llamac.ir.graph import attributes, is_op, operands, ops_in, type_of
from llamac.ir.program import Program
from llamac.ops.attention import attention
from llamac.ops.context import context_attention
from llamac.ops.linear import add_linear, linear


def matmul_parameters(program: Program, trainable: bool = False) -> int:
    """Return N, the number of weights in matmuls, of all layers, ranks and the output projection.

    trainable: count only the weights that are trained.
    """
    weights = {
        operands(node)[2 if is_op(node, add_linear) else 1].meta["param"]
        for name in (*dict.fromkeys(program.layers), "logits")
        for node in ops_in(program.regions[name].forward.graph)
        if is_op(node, linear, add_linear)
    }
    return sum(
        program.elements(program.parameters[name])
        for name in weights - (program.frozen if trainable else frozenset())
    )


def matmul_flops_per_token(program: Program) -> int:
    """Return the matmul FLOPs of one token's forward and backward pass, without recomputation.

    6N for N matmul parameters; 4N + 2T if only T of them are trained.
    """
    return 4 * matmul_parameters(program) + 2 * matmul_parameters(program, trainable=True)


def attention_flops_per_token(program: Program) -> int:
    """Return 12·L·d·s, the attention FLOPs of one token's forward and backward pass.

    Masked positions are counted. L: layers. d: heads × head_dim. s: sequence length, or the window
    if attention is windowed.
    """
    flops = dict.fromkeys(program.layers, 0)
    for name in flops:
        for node in ops_in(program.regions[name].forward.graph):
            if is_op(node, attention, context_attention):
                _batch, _length, heads, head_dim = type_of(operands(node)[0]).shape
                assert isinstance(heads, int)
                assert isinstance(head_dim, int)
                ranks = program.mesh.get("tp", 1)
                seen = attributes(node).get("window", program.symbols["S"])
                flops[name] += 12 * heads * ranks * head_dim * seen
    return sum(flops[name] for name in program.layers)


def flops_per_token(program: Program) -> int:
    """Return 6N + 12·L·d·s, the training FLOPs of one token (Chowdhery et al. 2022, appendix B).

    N: parameters in matmuls, of which frozen ones count 4 instead of 6, since their gradient is not
    computed. L: layers. d: heads × head_dim. s: sequence length, or the attention window.
    """
    return matmul_flops_per_token(program) + attention_flops_per_token(program)
