"""Rules of `kernels.attention`: which kernels support the attention that a spec describes."""

from __future__ import annotations

from collections.abc import Iterator

from llamac.spec.batch import Batch
from llamac.spec.data import Data
from llamac.spec.hardware import Hardware
from llamac.spec.kernels import Kernels
from llamac.spec.model import Model
from llamac.spec.parallel import Parallel
from llamac.spec.precision import Precision
from llamac.spec.validation.errors import Problem, join_options

DTYPE = {"bf16": "bf16", "fp32": "f32"}
"""The IR's name of each `precision.compute`."""


def objections(
    kernel: str,
    dtype: str,
    head_dim: int,
    positions: int,
    device: str,
    masked: bool,
    windowed: bool,
    deterministic: bool,
) -> Iterator[str]:
    """Yield the reasons why a kernel cannot run the spec's attention; none if it can.

    kernel: cudnn, xformers, flex, sdpa or math. dtype: `bf16` or `f32`.
    positions: positions of a sequence in one call of the kernel.
    device: `cpu`, `cuda`, or `auto` if it is known only when the trainer starts.
    masked: whether `data.document_mask` applies. windowed: whether `model.sliding_window` does.
    deterministic: whether `kernels.deterministic` requires a fixed order of sums.
    """
    wide = f"head_dim must be a multiple of 8 up to 256, and is {head_dim}"
    odd = head_dim % 8 or head_dim > 256
    if kernel == "cudnn":
        if device != "cuda":
            yield f'it has CUDA kernels only, and hardware.device is "{device}"'
        if dtype != "bf16":
            yield f"it takes 16-bit values, and precision.compute gives {dtype}"
        if head_dim % 8 or head_dim > 128:
            yield f"head_dim must be a multiple of 8 up to 128, and is {head_dim}"
        if masked or windowed:
            key = "data.document_mask" if masked else "model.sliding_window"
            yield f"llamac gives it causal masks only, and {key} needs another"
        if deterministic:
            yield "its backward sums in no fixed order, and kernels.deterministic requires one"
    elif kernel == "xformers":
        if device != "cuda":
            yield f'it has CUDA kernels only, and hardware.device is "{device}"'
        if dtype != "bf16":
            yield f"its fast kernels take 16-bit values, and precision.compute gives {dtype}"
        if odd:
            yield wide
        if positions % 32:
            yield f"it pads its log-sum-exp unless 32 divides batch.sequence_length ({positions})"
        if masked:
            yield (
                "it needs document lengths on the host, and data.document_mask computes them on "
                "the device"
            )
        if windowed:
            yield "llamac gives it causal masks only, and model.sliding_window needs another"
    elif kernel == "flex":
        yield (
            "its backward is reachable through autograd only, and the emitted backward is explicit"
        )
    elif kernel == "sdpa" and device != "cpu" and odd:
        yield f"on CUDA {wide}"


def expected_device(device: str, requested: str) -> str:
    """Return the device for which kernels are chosen: `cpu`, `cuda` or `auto`.

    With device = auto, requesting cudnn or xformers implies CUDA; on another device the trainer
    uses sdpa instead.

    device: `hardware.kernels_for`. requested: `kernels.attention`.
    """
    return "cuda" if requested in ("cudnn", "xformers") and device == "auto" else device


def context_chunks(parallel: Parallel) -> int:
    """Return the number of chunks into which context parallelism splits a sequence; else 1."""
    return 2 * parallel.context if parallel.context > 1 else 1


def kernel_can_run(
    kernels: Kernels,
    hardware: Hardware,
    precision: Precision,
    model: Model,
    batch: Batch,
    parallel: Parallel,
    data: Data,
) -> Iterator[Problem]:
    """Yield a problem if the attention kernel that the spec names cannot run on its settings."""
    requested = kernels.attention
    if requested == "auto":
        return
    positions = batch.sequence_length // context_chunks(parallel)

    def reasons(kernel: str) -> list[str]:
        device = expected_device(hardware.kernels_for, kernel)
        windowed = model.window(batch.sequence_length) is not None
        given = (DTYPE[precision.compute], model.head_dim, positions, device)
        masks = (data.document_mask, windowed)
        return list(objections(kernel, *given, *masks, kernels.deterministic))

    if against := reasons(requested):
        message = f'attention = "{requested}" cannot be used: {"; ".join(against)}'
        works = join_options(f'"{other}"' for other in ("sdpa", "math") if not reasons(other))
        yield Problem(("kernels", "attention"), message, f'use "auto", or {works}')
