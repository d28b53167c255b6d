"""The vocabulary of the IR: importing this package defines every op (`llamac.ir.op.OPS`)."""

from llamac.ops import (  # noqa: F401
    activation,
    async_tensor,
    attention,
    cache,
    collectives,
    context,
    cross_entropy,
    elementwise,
    embedding,
    linear,
    norm,
    overlapped,
    rope,
    views,
    vocab_parallel,
)
