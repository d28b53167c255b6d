"""Functions that torch.compile takes as one operator each, without looking inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def opaque(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function as the operator `llamac::<name>`; `fake` makes results without values.

    Operators belong to the process. Where another copy of this module has registered the name, that
    one serves: registering again would destroy an operator its module still calls.
    """

    def register(function: Callable[..., Any]) -> Any:
        if hasattr(torch.ops.llamac, name):
            return getattr(torch.ops.llamac, name)
        operator = torch.library.custom_op(f"llamac::{name}", function, mutates_args=())
        operator.register_fake(fake)
        return operator

    return register
