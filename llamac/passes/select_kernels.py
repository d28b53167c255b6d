"""select_kernels: which attention kernel runs, and for each other one why it does not.

A priority list, after xformers' own dispatcher: the first candidate with no objection is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from llamac.ir.graph import is_op, operands, ops_in, rewrite, type_of
from llamac.ir.program import Program
from llamac.ir.types import TensorType
from llamac.ops.attention import attention


class NoKernelError(ValueError):
    """The kernel the spec asks for cannot run what the spec describes."""

    exit_code = 2


@dataclass(frozen=True)
class SelectKernels:
    """attention: `auto` or a kernel. device: `cpu`, `cuda`, or `auto`: known only when it runs.

    chunks: in how many pieces attention will take a sequence.
    """

    attention: str
    device: str
    chunks: int = 1
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
        q = type_of(operands(sites[0])[0])  # every layer's attention is alike
        masked = len(operands(sites[0])) > 3
        positions = program.symbols["S"] // self.chunks
        verdicts = {
            kernel: list(objections(q, positions, self.device))
            for kernel, objections in RULES.items()
        }
        if masked:
            verdicts["xformers"].append(
                "it must know the documents' lengths on the host, and data.document_mask finds "
                "them on the device"
            )
        if self.attention != "auto":
            for kernel in verdicts.keys() - {self.attention}:
                verdicts[kernel] = [f'the spec asks for "{self.attention}"']
        chosen = next((kernel for kernel, why_not in verdicts.items() if not why_not), None)
        if chosen is None:
            raise NoKernelError(
                f'kernels.attention = "{self.attention}" cannot be used: '
                + "; ".join(verdicts[self.attention])
                + '. Set it to "auto", or change what is named here.'
            )
        for region in program.regions.values():
            forward = rewrite(region.forward, lambda graph: _choose(graph, chosen))
            program = program.with_region(replace(region, forward=forward))
        notes = [
            f"attention: {kernel} — {_verdict(kernel, chosen, why_not)}"
            for kernel, why_not in verdicts.items()
        ]
        return program.with_notes(*notes)


def _verdict(kernel: str, chosen: str, why_not: list[str]) -> str:
    if kernel == chosen:
        return "chosen"
    return "; ".join(why_not) or f"{chosen} comes first"


def _choose(graph: fx.Graph, kernel: str) -> None:
    for node in ops_in(graph):
        if is_op(node, attention):
            node.kwargs = {**node.kwargs, "kernel": kernel}


def _xformers(q: TensorType, positions: int, device: str) -> Iterator[str]:
    if device != "cuda":
        yield f'it has CUDA kernels only, and hardware.device is "{device}"'
    if q.dtype != "bf16":
        yield f"its fast kernels take 16-bit values, and precision.compute gives {q.dtype}"
    head_dim = q.shape[-1]
    assert isinstance(head_dim, int)
    if head_dim % 8 or head_dim > 256:
        yield f"head_dim must be a multiple of 8 up to 256, and is {head_dim}"
    if positions % 32:
        yield f"its log-sum-exp is padded unless 32 divides batch.sequence_length ({positions})"


def _flex(_q: TensorType, _positions: int, _device: str) -> Iterator[str]:
    yield "its backward can be reached through autograd only, and ours is explicit"


def _sdpa(q: TensorType, _positions: int, device: str) -> Iterator[str]:
    head_dim = q.shape[-1]
    assert isinstance(head_dim, int)
    if device != "cpu" and (head_dim % 8 or head_dim > 256):
        yield f"on CUDA head_dim must be a multiple of 8 up to 256, and is {head_dim}"


def _math(_q: TensorType, _positions: int, _device: str) -> Iterator[str]:
    yield from ()


# In order of preference.
RULES = {"xformers": _xformers, "flex": _flex, "sdpa": _sdpa, "math": _math}
