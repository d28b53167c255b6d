"""Definitions of all ops. Importing this package registers them in `llamac.ir.op.OPS`."""

from llamac.ops import (  # noqa: F401
    activation,
    async_collectives,
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
    rope,
    views,
    vocab_parallel,
)
