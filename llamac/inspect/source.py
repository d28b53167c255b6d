"""The functions of a stage as Python, with the imports that they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamac.emit.functions import backward_source, forward_source, functions_used, wrapped
from llamac.emit.model import SPECIAL
from llamac.ir.program import Program, Region


def stage_source(program: Program, stage: str, only: str | None = None) -> str:
    """A module: each region's forward function and, once there is one, its backward function."""
    regions = [region for region in program.regions.values() if only in (None, region.name)]
    title = f"{program.name} after {stage}"
    lines = ['"""' + "".join(c if c.isprintable() and c not in '"\\' else "?" for c in title)]
    lines += ["", "Shapes in comments: B sequences, S positions.", '"""', ""]
    lines += ["import torch", "import torch.nn.functional as F", "from torch import Tensor", ""]
    lines += _imports(regions)
    for region in regions:
        about = SPECIAL.get(region.name, "One layer: the residual stream → the residual stream.")
        lines += ["", "", forward_source(region, about)]
        if region.backward is not None:
            about = f"The gradients of `{region.name}_forward`."
            lines += ["", "", backward_source(region, about)]
    return "\n".join(lines) + "\n"


def _imports(regions: Iterable[Region]) -> Iterator[str]:
    used: dict[str, set[str]] = {}
    for region in regions:
        for module, function in functions_used(region):
            used.setdefault(module, set()).add(function)
    for module, functions in sorted(used.items()):
        left = f"from llamac.runtime.{module} import "
        yield from wrapped(left, ", ".join(sorted(functions)), indent=0)
