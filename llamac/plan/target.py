"""Determine the device, the number of GPUs and the setting of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from llamac.passes.analysis.peak_memory import Sharding
from llamac.plan.cost.framework import FRAMEWORKS, SOFTMAX_DROPOUT
from llamac.plan.device.device import (
    Device,
    DeviceError,
    device_names,
    find_alias,
    find_device,
    load_device,
)
from llamac.plan.setting import Setting
from llamac.spec import Spec, SpecError
from llamac.spec.validation.errors import join_options


def device_for(spec: Spec, name: str | None = None) -> Device:
    """Return the device to plan for: `name`, else hardware.gpu, else this machine.

    name: shipped name, alias or .toml file. This machine is its CPU or its GPU, by hardware.device.
    Raises DeviceError if the device is unknown, its file is invalid, or this machine lacks the GPU.
    """
    if name is not None:
        return _device(name)
    hardware = spec.hardware
    if hardware.gpu is not None:
        try:
            return _device(hardware.gpu)
        except DeviceError as error:
            raise DeviceError(f"{spec.where('hardware.gpu')}: {error}") from error
    if hardware.device == "cpu" or (hardware.device == "auto" and not torch.cuda.is_available()):
        return load_device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError("this machine has no CUDA device: name a GPU with --device NAME")
    return load_device(_this_gpu())


def _device(name: str) -> Device:
    """Return a device by name, file or alias."""
    exact = name.lower() in device_names() or name.endswith(".toml")
    return load_device(name) if exact else find_device(name)


def _this_gpu() -> str:
    title = torch.cuda.get_device_name()
    name = find_alias(title)
    if name is None:
        raise DeviceError(
            f"this machine's {title} is not among the known devices: measure it with "
            "`llamac plan --calibrate -o machine.toml`, then give --device machine.toml"
        )
    return name


class LayoutError(ValueError):
    """A layout is malformed, or a spec cannot run on a number of GPUs or fit the device.

    The message suggests what to change.
    """

    exit_code = 2


def on_gpus(spec: Spec, gpus: int) -> Spec:
    """Return the spec on `gpus` GPUs, by changing only the degrees of data parallelism.

    Raises LayoutError, which suggests other numbers of GPUs, if that is impossible.
    """
    parallel = spec.parallel
    if gpus == parallel.ranks:
        return spec
    model_ranks = parallel.model_ranks
    data, rest = divmod(gpus, model_ranks)
    if not rest and data:
        try:
            return _with_data_ranks(spec, data)
        except SpecError:
            pass
    near = list(_nearest(spec, gpus, model_ranks))
    ways = f"{join_options(near)} GPUs would do" if near else "change the batch"
    raise LayoutError(
        f"{spec.name} cannot run on {gpus} GPUs: each copy of the model takes {model_ranks} of "
        f"them, and its data ranks take whole micro-batches of {spec.batch.micro_batch} out of "
        f"{spec.batch.sequences} sequences a step; {ways}"
    )


def _with_data_ranks(spec: Spec, data: int) -> Spec:
    """Return the spec with `data` data-parallel ranks.

    A spec with replicas shards over the greatest common divisor of `data` and its shards, and
    replicates over the rest; one without shards over all.
    """
    shards = data
    if spec.parallel.data_replicate > 1:
        shards = math.gcd(spec.parallel.data_shard, data)
    return spec.replace({"parallel.data_replicate": data // shards, "parallel.data_shard": shards})


def _nearest(spec: Spec, gpus: int, model_ranks: int) -> Iterator[int]:
    """Yield the numbers of GPUs just below and above that the spec can run on."""
    max_data = spec.batch.sequences // spec.batch.micro_batch
    possible = [n * model_ranks for n in range(1, max_data + 1) if max_data % n == 0]
    for candidates in (
        [n for n in reversed(possible) if n < gpus],
        [n for n in possible if n > gpus],
    ):
        for ranks in candidates:
            try:
                _with_data_ranks(spec, ranks // model_ranks)
            except SpecError:
                continue
            yield ranks
            break


OP_BY_OP = {"traffic": 4.0, "kernels": 5.0}
"""Fields of `FrameworkProfile` without torch.compile, where each op is several kernels that read
and write memory."""


def setting_for(
    spec: Spec, device: Device, framework: str = "llamac", sharding: Sharding | None = None
) -> Setting:
    """Return the setting of a spec that a framework runs on a device.

    framework: key of FRAMEWORKS. sharding: None means as in the emitted trainer. Attention scores
    are materialised if kernels.attention = "math", under any framework.
    """
    scores = SOFTMAX_DROPOUT if spec.kernels.attention == "math" else None
    profile = replace(FRAMEWORKS[framework], scores=scores)
    if framework == "llamac" and spec.kernels.compile == "never":
        profile = replace(profile, **OP_BY_OP)
    if framework == "llamac" and spec.parallel.reduces_each:
        profile = replace(profile, reduces_each_micro_batch=True)
    return Setting(spec, device, profile, sharding)
