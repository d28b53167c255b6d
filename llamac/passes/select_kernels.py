"""select_kernels: chooses the attention kernel and notes why each other one was rejected.

Candidates are tried in order of priority, as in xformers' dispatcher, and the first without
objections is chosen. `spec/rules/attention_kernels.py` lists what each kernel supports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import attributes, is_op, operands, ops_in, rewrite, type_of
from llamac.ir.program import Program
from llamac.ops.attention import attention
from llamac.spec.rules.attention_kernels import expected_device, objections

PREFERRED = ("xformers", "flex", "sdpa", "cudnn", "math")
"""Kernels in order of preference; on Hopper and later, cuDNN comes first."""


class NoKernelError(ValueError):
    """The requested attention kernel cannot run with the spec's model, device and settings.

    The message lists the reasons and what to change.
    """

    exit_code = 2


@dataclass(frozen=True)
class SelectKernels:
    """Pass that chooses the attention kernel and notes why the others were rejected.

    Raises NoKernelError if the requested kernel cannot run.

    attention: `auto`, or the name of the requested kernel.
    device: `cpu`, `cuda`, or `auto` if it is known only when training starts.
    chunks: number of chunks into which context parallelism splits a sequence.
    hopper: whether the GPU is a Hopper or later.
    deterministic: whether kernels must sum in a fixed order.
    no_graphs: reasons why micro-batches cannot be captured as a CUDA graph; only noted.
    """

    attention: str
    device: str
    chunks: int = 1
    hopper: bool = False
    deterministic: bool = True
    no_graphs: tuple[str, ...] = ()
    name: str = "select_kernels"

    def apply(self, program: Program) -> Program:
        sites = [
            node
            for region in program.regions.values()
            for node in ops_in(region.forward.graph)
            if is_op(node, attention)
        ]
        if not sites:
            return program
        q = type_of(operands(sites[0])[0])  # all layers have the same attention
        head_dim = q.shape[-1]
        assert isinstance(head_dim, int)
        masked, windowed = len(operands(sites[0])) > 3, "window" in attributes(sites[0])
        positions = program.symbols["S"] // self.chunks
        device = expected_device(self.device, self.attention)
        site = (q.dtype, head_dim, positions, device, masked, windowed, self.deterministic)
        order = sorted(PREFERRED, key=lambda kernel: self.hopper and kernel != "cudnn")
        verdicts = {kernel: list(objections(kernel, *site)) for kernel in order}
        if self.attention != "auto":
            for kernel in verdicts.keys() - {self.attention}:
                verdicts[kernel] = [f'the spec requests "{self.attention}"']
        chosen = next((kernel for kernel, why_not in verdicts.items() if not why_not), None)
        if chosen is None:
            raise NoKernelError(
                f'kernels.attention = "{self.attention}" cannot be used: '
                + "; ".join(verdicts[self.attention])
                + '. Set kernels.attention = "auto", or change the setting named here.'
            )
        for region in program.regions.values():
            forward = rewrite(region.forward, lambda graph: _choose(graph, chosen))
            program = program.with_region(replace(region, forward=forward))
        notes = [
            f"attention: {kernel} — {_verdict(kernel, chosen, why_not)}"
            for kernel, why_not in verdicts.items()
        ]
        graphs = "; ".join(self.no_graphs) or "chosen, on CUDA"
        return program.with_notes(*notes, f"CUDA graph of a micro-batch: {graphs}")


def _verdict(kernel: str, chosen: str, why_not: list[str]) -> str:
    if kernel == chosen:
        return "chosen"
    return "; ".join(why_not) or f"{chosen} has priority"


def _choose(graph: fx.Graph, kernel: str) -> None:
    for node in ops_in(graph):
        if is_op(node, attention):
            node.kwargs = {**node.kwargs, "kernel": kernel}
