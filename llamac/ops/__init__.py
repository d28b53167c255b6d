"""Definitions of all ops; importing this package fills `llamac.ir.op.OPS`."""

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
    log_probability,
    norm,
    overlapped,
    rope,
    views,
    vocab_parallel,
)
