"""Registration of functions as operators that are opaque to torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def no_seed(q: Tensor) -> Tensor:
    """Return an empty int64 tensor on the device of `q`: the seed of attention without dropout.

    torch's attention operators require one.
    """
    return torch.empty(0, dtype=torch.int64, device=q.device)


def opaque(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that registers a function as the operator `llamac::<name>`.

    The function must not modify its arguments. fake: takes the same arguments and returns
    uninitialised results of the same shapes and dtypes, for tracing. Operators are global to the
    process: if another copy of this module has registered the name, the decorator returns that
    operator, because registering it again would destroy an operator in use.
    """

    def register(function: Callable[..., Any]) -> Any:
        definitions = vars(torch.ops.llamac).setdefault("definitions", {})
        if name not in definitions:
            definition = torch.library.custom_op(f"llamac::{name}", function, mutates_args=())
            definition.register_fake(fake)
            definitions[name] = definition
        return getattr(torch.ops.llamac, name).default

    return register
