"""A step before it is run: what a rank holds, how long it takes, what it sends, out of the Program.

The graphs are those that are emitted, with their recomputation and their schedule of collectives.
Around them stand, in closed form, what torch's engines do: FSDP's gathers under the layers beside
them, pipeline stages taking turns, the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from llamac.ir.program import Program
from llamac.passes.flops import attention_flops_per_token, matmul_parameters
from llamac.passes.footprint import (
    CONTEXT,
    FRAGMENTS,
    Activations,
    Held,
    Memory,
    Sharding,
    activations,
    behind,
    fresh_gradients,
    held,
    in_flight,
    states,
)
from llamac.passes.pipeline import compile_spec
from llamac.plan.clock import DeviceClock
from llamac.plan.device import Device
from llamac.plan.regions import Pass, run_once
from llamac.plan.style import STYLES, Style
from llamac.spec import Spec

DAY = 86_400


@dataclass(frozen=True)
class Setting:
    """A spec on a device, and what another framework would do differently.

    sharding: what data ranks share; None: as our trainer has it. fp8: do linear layers multiply in
    it? core_again: is attention computed again for its backward pass (Megatron's selective)?
    micro_batches: of a rank in a step, where fewer than our schedules take.
    """

    spec: Spec
    device: Device
    style: Style = STYLES["llamac"]
    sharding: Sharding | None = None
    fp8: bool = False
    core_again: bool = False
    micro_batches: int | None = None

    @property
    def rank_micro_batches(self) -> int:
        """Of a data rank in a step."""
        parallel, batch = self.spec.parallel, self.spec.batch
        data = parallel.data_shard * parallel.data_replicate
        return self.micro_batches or batch.sequences // (batch.micro_batch * data)

    @property
    def tokens(self) -> int:
        """Of a step."""
        parallel, batch = self.spec.parallel, self.spec.batch
        data = parallel.data_shard * parallel.data_replicate
        return self.rank_micro_batches * batch.micro_batch * batch.sequence_length * data

    def compile(self) -> Program:
        """The spec's Program, its ops as separate as the style has them."""
        return compile_spec(self.spec, () if self.style.fused else ("fuse",))


@dataclass(frozen=True)
class Seconds:
    """Of one step on the slowest rank: what computes, and what it waits for."""

    compute: float
    tensor: float  # exposed transfers of tensor and context ranks
    data: float  # exposed gathers and reductions of data ranks
    bubble: float
    pipeline: float  # exposed sends between stages
    optimizer: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Prediction:
    """Everything `llamac plan` says. communication: bytes a rank sends in a step, by axis."""

    setting: Setting
    parameters: int
    per_rank: int
    flops_per_token: float
    attention_per_token: float
    hardware_flops: float  # of one step over all ranks, recomputation included
    memory: Memory
    seconds: Seconds
    communication: Mapping[str, float]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.setting.device.memory

    @cached_property
    def tokens_per_second_per_gpu(self) -> float:
        ranks = self.setting.spec.parallel.ranks
        return self.setting.tokens / self.seconds.total / ranks

    @property
    def peak(self) -> float:
        return self.setting.device.flops(self.setting.spec.precision.compute)

    @property
    def mfu(self) -> float:
        """Of the peak, at 6N + 12·L·d·s FLOPs per token (PaLM)."""
        per_token = self.flops_per_token + self.attention_per_token
        return self.tokens_per_second_per_gpu * per_token / self.peak

    @property
    def hfu(self) -> float:
        """Of the peak, in what is run: recomputation counted, attention its causal half."""
        ranks = self.setting.spec.parallel.ranks
        return self.hardware_flops / ranks / self.seconds.total / self.peak

    @property
    def days(self) -> float:
        return self.setting.spec.total_steps * self.seconds.total / DAY

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.setting.spec.parallel.ranks

    def to_json(self) -> dict[str, Any]:
        """The form of `plan --json`. Bytes, seconds, FLOPs."""
        memory = {key: round(value) for key, value in vars(self.memory).items()}
        return {
            "device": self.setting.device.name,
            "kind": "gpu" if self.setting.device.is_gpu else "cpu",
            "gpus": self.setting.spec.parallel.ranks,
            "parameters": {"total": self.parameters, "per_rank": self.per_rank},
            "flops": {
                "per_token": self.flops_per_token,
                "attention_per_token": self.attention_per_token,
                "hardware_per_step": self.hardware_flops,
            },
            "memory": {
                "per_gpu": {**memory, "total": round(self.memory.total)},
                "capacity": self.setting.device.memory,
            },
            "fits": self.fits,
            "step_seconds": self.seconds.total,
            "seconds": dict(vars(self.seconds)),
            "tokens_per_second_per_gpu": self.tokens_per_second_per_gpu,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "communication": {f"{axis}_bytes": sent for axis, sent in self.communication.items()},
            "run": {"days": self.days, "gpu_hours": self.gpu_hours},
        }


def predict(setting: Setting, program: Program | None = None) -> Prediction:
    """What one step of `setting` takes. program: the compiled spec, where it is at hand."""
    return StepModel(setting, program or setting.compile()).prediction()


class StepModel:
    """A setting's Program on its device: what `Prediction` is the sum of."""

    def __init__(self, setting: Setting, program: Program) -> None:
        self.setting, self.program = setting, program
        spec = self.spec = setting.spec
        parallel = spec.parallel
        self.tp, self.cp, self.pp = parallel.tensor, parallel.context, parallel.pipeline
        self.data = parallel.data_shard * parallel.data_replicate
        self.micro_batches = setting.rank_micro_batches
        self.clock = DeviceClock(
            program.symbols,
            program.mesh,
            device=setting.device,
            dtype=spec.precision.compute,
            strides={"tp": 1, "cp": self.tp},
            style=setting.style,
            fp8=setting.fp8,
            core_again=setting.core_again,
        )
        default: Sharding = "zero3" if parallel.data_shard * self.cp > 1 else "none"
        self.sharding: Sharding = setting.sharding or default
        sharers = parallel.data_shard if setting.sharding is None else self.data
        self.sharers = sharers * self.cp  # of state: context ranks are among them
        self.copies = self.data // sharers  # of that state

    def prediction(self) -> Prediction:
        program, passes = self.program, self.passes
        matmul, attention = self._model_flops()
        once = sum(passes[name].flops for name in (*program.layers, "embed", "head"))
        own = self._held(self.stages[0])
        return Prediction(
            setting=self.setting,
            parameters=program.parameter_count,
            per_rank=own.total,
            flops_per_token=matmul,
            attention_per_token=attention,
            hardware_flops=once * self.tp * self.cp * self.micro_batches * self.data,
            memory=self.memory(),
            seconds=self.seconds(),
            communication=self._communication(own),
        )

    # -- what is run -------------------------------------------------------------------------------

    @cached_property
    def passes(self) -> Mapping[str, Pass]:
        """Every region that is trained, by its name."""
        program = self.program
        names = dict.fromkeys((*program.layers, "embed", "head"))
        return {name: run_once(program.regions[name], self.clock) for name in names}

    @cached_property
    def stages(self) -> list[tuple[str, ...]]:
        """The layers of each pipeline rank."""
        counts = self.program.stages or (len(self.program.layers),)
        begin = 0
        found: list[tuple[str, ...]] = [()] * self.pp
        for number, count in enumerate(counts):
            found[number % self.pp] += self.program.layers[begin : begin + count]
            begin += count
        return found

    def seconds(self) -> Seconds:
        passes, stages = self.passes, self.stages
        m, virtual = self.micro_batches, self.spec.parallel.pipeline_virtual

        def turn(rank: int) -> tuple[float, float]:
            """(a micro-batch forward and back, of it what waits for tensor ranks)."""
            names = [*stages[rank], *(["embed"] if rank == 0 else [])]
            names += ["head"] if rank == self.pp - 1 else []
            own = [passes[name] for name in names]
            return sum(p.forward + p.backward for p in own), sum(p.exposed for p in own)

        every = [turn(rank) for rank in range(self.pp)]
        slowest, exposed = max(every)
        hops = 0.0
        if self.pp > 1:
            stride = self.tp * self.cp * self.data
            hop = self.clock.collective(self.stream_bytes(), 2, stride)
            hidden = self.setting.style.hides_sends and virtual > 1
            hops = hop * 2 * ((0 if hidden else m * virtual) + self.pp - 1)
        # While the pipeline fills and drains, the slowest rank waits for one turn of each other.
        bubble = (sum(seconds for seconds, _ in every) - slowest) / virtual
        return Seconds(
            compute=m * (slowest - exposed),
            tensor=m * exposed,
            data=self._data_seconds(passes, stages),
            bubble=bubble,
            pipeline=hops,
            optimizer=self._update_seconds(stages),
        )

    def stream_bytes(self) -> float:
        spec = self.spec
        shared = self.cp * (self.tp if spec.parallel.sequence else 1)
        size = 4 if spec.precision.compute == "fp32" else 2
        return spec.batch.micro_batch * spec.batch.sequence_length / shared * spec.model.dim * size

    def _data_seconds(self, passes: Mapping[str, Pass], stages: list[tuple[str, ...]]) -> float:
        """What of gathers and reductions no layer hides, on the rank with most layers."""
        layers = max(stages, key=len)
        own = self._held(layers)
        size = 4 if self.spec.precision.compute == "fp32" else 2
        clock, stride, m = self.clock, self.tp, self.micro_batches
        copies, n = self.copies, self.sharers

        def moved(nbytes: float, ranks: int, times: float = 1.0, at: int = stride) -> float:
            return clock.collective(times * nbytes * (ranks - 1) / ranks, ranks, at)

        if self.sharding == "zero3" and n > 1:
            wire = self.setting.style.gradient_bytes
            gather, reduce = moved(size * own.layer, n), moved(wire * own.layer, n)
            if copies > 1:
                reduce += moved(wire * own.layer / n, copies, 2.0, stride * n)
            rest = size * (own.total - own.layers)
            rounds = 1 if self.pp > 1 else m  # a stage's layers stay gathered for a step
            again = gather if self.pp == 1 else 0.0
            each = reduce if self.setting.style.each_time else 0.0
            waits = sum(
                rounds * self._beside(gather, layer.forward)
                + (m - 1) * self._beside(again + each, layer.backward)
                + self._beside(again + reduce, layer.backward)
                for layer in (passes[name] for name in layers)
            )
            return waits + rounds * moved(rest, n) + reduce  # the first gather, the last reduction
        data = self.data * self.cp
        if data == 1:
            return 0.0
        wire = self.setting.style.gradient_bytes
        reduce = moved(wire * own.total, data, 1.0 if self.sharding != "none" else 2.0)
        if self.sharding in ("zero1", "zero2"):
            gather = moved(size * own.total, data)
            reduce += gather
        if not self.setting.style.overlapped:
            return reduce
        behind = sum(passes[name].backward for name in layers)
        return max(reduce / max(1, len(layers)), self._beside(reduce, behind))

    def _beside(self, transfer: float, work: float) -> float:
        """Seconds that a transfer under so many seconds of work adds to them: what the work does
        not cover, and what it loses of memory and multiprocessors to the part it covers."""
        share = self.setting.device.efficiency.contention
        return max(0.0, transfer - work) + share * min(transfer, work)

    def _update_seconds(self, stages: list[tuple[str, ...]]) -> float:
        own = self._held(max(stages, key=len)).total
        own /= 1 if self.sharding == "none" else self.sharers
        nbytes = own * self.setting.style.update_bytes
        return self.clock.moved(nbytes, 2 + 8 * len(stages[0]) / 30)

    # -- what is held ------------------------------------------------------------------------------

    def _held(self, layers: tuple[str, ...]) -> Held:
        first, last = layers is self.stages[0], layers is self.stages[-1]
        return held(self.program, len(layers), first, last)

    @cached_property
    def activations(self) -> Activations:
        style, share = self.setting.style, self.setting.style.fp8_kept
        found = activations(self.program, not self.setting.core_again, style.logit_bytes)
        if not self.setting.fp8 or share == 1.0:
            return found
        kept = {name: share * nbytes for name, nbytes in found.kept.items()}
        less = {name: nbytes - kept[name] for name, nbytes in found.kept.items()}
        peak = {name: nbytes - less[name] for name, nbytes in found.peak.items()}
        return replace(found, kept=kept, peak=peak)

    def memory(self) -> Memory:
        """Of the pipeline rank that holds most."""
        return max(map(self._memory, self.full_ranks), key=lambda held: held.total)

    @property
    def full_ranks(self) -> set[int]:
        """Pipeline ranks of which one holds most; of equal ones the first has most under way."""
        return {0, max(range(self.pp), key=lambda rank: len(self.stages[rank])), self.pp - 1}

    def _memory(self, rank: int) -> Memory:
        layers, last, dtype = self.stages[rank], rank == self.pp - 1, self.spec.precision.compute
        own = held(self.program, len(layers), rank == 0, last)
        state = states(
            own,
            dtype,
            self.sharding,
            self.sharers,
            1 if self.setting.style.each_time and self.pp == 1 else self.micro_batches,
            whole_stage=self.pp > 1,
        )
        found, virtual = self.activations, self.spec.parallel.pipeline_virtual
        flying = in_flight(rank, self.pp, virtual, self.micro_batches) if self.pp > 1 else 1
        runs = [(name, len(list(run))) for name, run in groupby(layers)]
        fresh = fresh_gradients(self.program, own, dtype, self.sharding, self.micro_batches)
        alive = behind(found, runs, flying, last, fresh)
        logits = found.logits if last else 0.0
        torchs = sum(state.values()) + alive + logits
        return Memory(
            **state,
            activations=alive,
            logits=logits,
            overhead=(CONTEXT if self.setting.device.is_gpu else 0.4e9) + FRAGMENTS * torchs,
        )

    # -- what is said ------------------------------------------------------------------------------

    def _model_flops(self) -> tuple[float, float]:
        """(6N, 12·L·d·s) for each token; N: parameters of matmuls, the output projection's too."""
        return 6 * matmul_parameters(self.program), attention_flops_per_token(self.program)

    def _communication(self, own: Held) -> dict[str, float]:
        names = (*self.stages[0], "embed", *(("head",) if self.pp == 1 else ()))
        m, size = self.micro_batches, 4 if self.spec.precision.compute == "fp32" else 2
        sent = {
            axis: m * sum(self.passes[name].sent[axis] for name in names)
            for axis in self.program.mesh
        }
        n, copies, data = self.sharers, self.copies, self.data
        if self.sharding == "zero3" and n > 1:
            rounds = 1 if self.pp > 1 else 2 * m
            sent["dp_shard"] = own.total * (size * rounds + 4) * (n - 1) / n
            if copies > 1:
                sent["dp_replicate"] = 2 * 4 * own.total / n * (copies - 1) / copies
        elif data > 1:
            axis = "dp_shard" if self.spec.parallel.data_shard > 1 else "dp_replicate"
            sent[axis] = 2 * 4 * own.total * (data - 1) / data
        if self.pp > 1:
            sent["pp"] = m * self.stream_bytes() * (2 * self.spec.parallel.pipeline_virtual - 1)
        return sent
