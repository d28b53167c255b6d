"""Python source of any stage, with the imports that its functions need."""

from __future__ import annotations

from llamac.emit.functions import backward_source, forward_source, runtime_imports
from llamac.ir.program import Program


def stage_source(program: Program, stage: str, region_name: str | None = None) -> str:
    """Return the text of a Python module with the forward and backward function of each region.

    A region without a backward graph has only the forward one.

    stage: name of the last pass, for the module's docstring.
    region_name: region to include; None includes all.
    """
    regions = [region for region in program.regions.values() if region_name in (None, region.name)]
    title = f"{program.name} after {stage}"
    lines = ['"""' + "".join(c if c.isprintable() and c not in '"\\' else "?" for c in title)]
    lines += ["", "Shapes in comments: B sequences, S positions.", '"""', ""]
    lines += ["import torch", "import torch.nn.functional as F", "from torch import Tensor", ""]
    lines += runtime_imports(regions, "llamac.runtime")
    for region in regions:
        lines += ["", "", forward_source(region)]
        if region.backward is not None:
            lines += ["", "", backward_source(region)]
    return "\n".join(lines) + "\n"
