"""Analytical model of a training step on a device: seconds, memory and traffic.

Each region's graphs are timed, including recomputation and the order of collectives. FSDP's
transfers, the pipeline schedule and the optimizer are added to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby

from llamac.ir.graph import op_of
from llamac.ir.program import Program
from llamac.passes.analysis.flops import attention_flops_per_token, matmul_flops_per_token
from llamac.passes.analysis.peak_memory import (
    CONTEXT,
    FRAGMENTS,
    Activations,
    Memory,
    Sharding,
    StageParameters,
    StepGradients,
    micro_batches_in_flight,
    peak_activation_bytes,
    stage_parameters,
    step_gradients,
    training_state,
)
from llamac.plan.cost.data_parallel import DataParallel, total_seconds
from llamac.plan.cost.device_cost import DeviceCost
from llamac.plan.cost.framework_memory import framework_activations, head_logits, head_peak
from llamac.plan.cost.region_time import RegionTime, graph_time, region_time
from llamac.plan.prediction import Prediction, Seconds
from llamac.plan.setting import Setting

CPU_PROCESS = 0.4e9
"""Bytes of a CPU process without tensors: the interpreter and libraries."""


class StepModel:
    """Cost model of one step of a setting's Program on its device.

    Attributes:
        program: The setting's compiled spec.
        tp, cp, pp, data: Degrees of tensor, context, pipeline and data parallelism.
        micro_batches: Micro-batches per data-parallel rank and step.
        cost: Timing model of ops and collectives.
        sharding: State that is sharded over `fsdp_ranks`.
        fsdp_ranks: Ranks over which state is sharded, including context-parallel ones.
        copies: Replicas of that state.
    """

    def __init__(self, setting: Setting, program: Program) -> None:
        self.setting, self.program = setting, program
        spec = self.spec = setting.spec
        parallel = spec.parallel
        self.tp, self.cp, self.pp = parallel.tensor, parallel.context, parallel.pipeline
        self.data = parallel.data_ranks
        self.micro_batches = setting.rank_micro_batches
        self.cost = DeviceCost(
            program.symbols,
            program.mesh,
            device=setting.device,
            dtype=spec.precision.compute,
            strides={"tp": 1, "cp": self.tp},
            # A CUDA graph starts all kernels of a micro-batch by one launch.
            profile=replace(setting.profile, host=0.0) if setting.captures else setting.profile,
            fp8=setting.fp8,
            recomputes_attention=setting.recomputes_attention,
        )
        default: Sharding = "zero3" if parallel.fsdp_ranks > 1 else "none"
        self.sharding: Sharding = setting.sharding or default
        shards = parallel.data_shard if setting.sharding is None else self.data
        self.fsdp_ranks = shards * self.cp  # context-parallel ranks share state too
        self.copies = self.data // shards

    def prediction(self) -> Prediction:
        """Return the prediction of a step (seconds, memory, FLOPs, traffic) and the whole run."""
        program, times = self.program, self.times
        flops = sum(times[name].flops for name in (*program.layers, "embed", "head"))
        return Prediction(
            setting=self.setting,
            parameters=program.parameter_count,
            per_rank=self.parameters(0).total,
            flops_per_token=matmul_flops_per_token(program),
            attention_per_token=attention_flops_per_token(program),
            hardware_flops=flops * self.tp * self.cp * self.micro_batches * self.data,
            memory=self.memory(),
            seconds=self.seconds(),
            communication=self._communication(),
            reference_seconds=self._reference_seconds(),
        )

    # -- computation -------------------------------------------------------------------------------

    @cached_property
    def times(self) -> Mapping[str, RegionTime]:
        """Return the time of one micro-batch in each region that training runs, by name."""
        program = self.program
        names = dict.fromkeys((*program.layers, "embed", "head"))
        return {name: region_time(program.regions[name], self.cost) for name in names}

    @cached_property
    def stages(self) -> list[tuple[str, ...]]:
        """Return, per pipeline rank, the names of its layers' regions, in order of depth."""
        counts = self.program.stages or (len(self.program.layers),)
        begin = 0
        ranks: list[tuple[str, ...]] = [()] * self.pp
        for number, count in enumerate(counts):
            ranks[number % self.pp] += self.program.layers[begin : begin + count]
            begin += count
        return ranks

    @cached_property
    def turns(self) -> list[tuple[float, float, float]]:
        """Return, per pipeline rank, (forward, backward, exposed) seconds of a micro-batch.

        exposed: the part of both passes that waits for tensor-parallel or context-parallel ranks.
        """
        return [self._turn(rank) for rank in range(self.pp)]

    def _turn(self, rank: int) -> tuple[float, float, float]:
        names = [*self.stages[rank], *(["embed"] if rank == 0 else [])]
        names += ["head"] if rank == self.pp - 1 else []
        times = [self.times[name] for name in names]
        forward, backward = (
            sum(region.forward for region in times),
            sum(region.backward for region in times),
        )
        exposed = sum(region.exposed for region in times)
        gates = len(self.stages[rank]) * self._gate_reduction()
        exposed += gates
        backward += gates
        if rank == self.pp - 1:
            gather, extra_backward = self._head_extra()
            forward, backward, exposed = (
                forward + gather,
                backward + extra_backward,
                exposed + gather,
            )
        return forward, backward, exposed

    def _gate_reduction(self) -> float:
        """Return the seconds of a layer's second all-reduce of the feed-forward's input gradient.

        0 unless gate and up projection are separate column-parallel layers.
        """
        spec = self.spec
        if not self.setting.profile.separate_gate or not spec.model.gated:
            return 0.0
        if self.tp == 1 or spec.parallel.sequence:
            return 0.0
        sent = 2 * self.stream_bytes() * (self.tp - 1) / self.tp
        return self.cost.collective(sent, self.tp, rounds=2.0)

    def _head_extra(self) -> tuple[float, float]:
        """Return the seconds that the head adds: (gather of logits, loss over them).

        The gather is over tensor-parallel ranks; the loss is of the other ranks' logits, and
        includes the head's recomputed norm, matmul and gather.
        """
        profile = self.setting.profile
        gather = loss = 0.0
        if profile.gathers_logits and self.tp > 1:
            logits = head_logits(self.program)
            nbytes = self.spec.precision.item_size * logits * self.tp
            gather = self.cost.collective(nbytes * (self.tp - 1) / self.tp, self.tp)
            loss = self.cost.memory_seconds(profile.loss_bytes * logits * (self.tp - 1))
        if not profile.recomputes_head:
            return gather, loss
        spans = graph_time(self.program.regions["head"].forward, self.cost).spans
        recomputed = (span for span in spans if "cross_entropy" not in op_of(span.node).name)
        return gather, loss + gather + sum(span.end - span.begin for span in recomputed)

    @cached_property
    def slowest(self) -> int:
        """Return the index of the slowest pipeline rank, for which the others wait."""
        return max(range(self.pp), key=lambda rank: sum(self.turns[rank][:2]))

    def seconds(self) -> Seconds:
        """Return the seconds of a step, by cause, on the slowest pipeline rank."""
        m, virtual = self.micro_batches, self.spec.parallel.pipeline_virtual
        forward, backward, exposed = self.turns[self.slowest]
        # While the pipeline fills and drains, the slowest rank waits for one turn of each other.
        others = sum(f + b for rank, (f, b, _) in enumerate(self.turns) if rank != self.slowest)
        return Seconds(
            compute=m * (forward + backward - exposed),
            tensor=m * exposed,
            data=self.data_parallel(self.slowest).exposed(self.layer_seconds(self.slowest)),
            bubble=others / virtual,
            pipeline=self._send_seconds(),
            optimizer=self._update_seconds(),
        )

    def layer_seconds(self, rank: int) -> list[tuple[float, float]]:
        """Return (forward, backward) seconds of a micro-batch in each layer of a pipeline rank."""
        layers = (self.times[name] for name in self.stages[rank])
        return [(layer.forward, layer.backward) for layer in layers]

    def _reference_seconds(self) -> float:
        """Return the seconds before the first step in which DPO's reference model scores all pairs.

        These are the pairs of one epoch, assuming that the run has only one, and held-out pairs.
        """
        spec, regions, data = self.spec, self.program.regions, self.data_parallel(0)
        if not spec.finetune.is_dpo:
            return 0.0
        head = regions["evaluate"] if "evaluate" in regions else regions["head"]
        micro_batch = total_seconds(data.gather_before_micro_batch(0))
        for region in (regions["embed"], head):
            micro_batch += graph_time(region.forward, self.cost).seconds
        for forward, _ in self.layer_seconds(0):
            micro_batch += forward + data.layer_wait("forward", 0, forward)
        return spec.total_steps * self.micro_batches * micro_batch / (1 - spec.data.validation)

    def _send_seconds(self) -> float:
        """Return the seconds of exposed sends between pipeline stages."""
        if self.pp == 1:
            return 0.0
        virtual = self.spec.parallel.pipeline_virtual
        hop = self.cost.collective(self.stream_bytes(), 2, self.tp * self.cp * self.data)
        hidden = self.setting.profile.hides_sends and virtual > 1
        return hop * 2 * ((0 if hidden else self.micro_batches * virtual) + self.pp - 1)

    def stream_bytes(self) -> float:
        """Return the bytes of one rank's share of a micro-batch's hidden states [B, S, D].

        They are in the compute dtype; context and sequence parallelism split S.
        """
        spec = self.spec
        shared = self.cp * (self.tp if spec.parallel.sequence else 1)
        tokens = spec.batch.micro_batch * spec.batch.sequence_length / shared
        return tokens * spec.model.dim * spec.precision.item_size

    def data_parallel(self, rank: int) -> DataParallel:
        """Return the model of a pipeline rank's data-parallel transfers: gathers and reductions."""
        return DataParallel(
            cost=self.cost,
            parameters=self.parameters(rank),
            sharding=self.sharding,
            fsdp_ranks=self.fsdp_ranks,
            copies=self.copies,
            stride=self.tp,
            item_size=self.spec.precision.item_size,
            micro_batches=self.micro_batches,
            pipelined=self.pp > 1,
            axis="dp_shard" if self.spec.parallel.data_shard > 1 else "dp_replicate",
        )

    def _update_seconds(self) -> float:
        rank = self.slowest
        parameters, profile = self.parameters(rank).trained.total, self.setting.profile
        shards = parameters / (1 if self.sharding == "none" else self.fsdp_ranks)
        nbytes = shards * (profile.update_bytes + 2 * self.spec.optimizer.state_bytes)
        if self.data > 1:
            nbytes += parameters * profile.reduction_bytes
        update = self.cost.memory_seconds(nbytes, 2 + 8 * len(self.stages[rank]) / 30)
        return update + self.accumulation_seconds

    @property
    def accumulation_seconds(self) -> float:
        """Return the seconds per step in which the slowest rank accumulates gradients.

        The first micro-batch's gradients are not added if autograd or FSDP keeps them as computed,
        and none are if each micro-batch's gradients are reduced separately.
        """
        profile, m = self.setting.profile, self.micro_batches
        if profile.reduces_each_micro_batch:
            return 0.0
        keeps_first = profile.gradient_bytes == 2 or self.data_parallel(self.slowest).fsdp
        times = m - 1 if keeps_first else m
        added = times * self.parameters(self.slowest).trained.total
        return self.cost.memory_seconds(profile.accumulate_bytes * added, kernels=0.0)

    # -- memory ------------------------------------------------------------------------------

    def parameters(self, rank: int) -> StageParameters:
        """Return the parameter counts of a pipeline rank's tensor-parallel shard.

        Data-parallel sharding is not counted.
        """
        return stage_parameters(
            self.program, len(self.stages[rank]), rank == 0, rank == self.pp - 1
        )

    @cached_property
    def activations(self) -> Activations:
        """Return the activation bytes of one micro-batch under the framework."""
        return framework_activations(self.setting, self.program)

    def memory(self) -> Memory:
        """Return the memory, by purpose, of the pipeline rank with the highest peak."""
        return max(map(self.rank_memory, self.full_ranks), key=lambda held: held.total)

    @property
    def full_ranks(self) -> set[int]:
        """Return the indices of the pipeline ranks that may need the most memory.

        They are the first (most micro-batches in flight), the one with the most layers, and the
        last (logits).
        """
        return {0, max(range(self.pp), key=lambda rank: len(self.stages[rank])), self.pp - 1}

    def rank_memory(self, rank: int) -> Memory:
        """Return the memory of one pipeline rank at its peak, by purpose."""
        layers, last, dtype = self.stages[rank], rank == self.pp - 1, self.spec.precision.compute
        parameters = self.parameters(rank)
        state = training_state(
            parameters,
            dtype,
            self.sharding,
            self.fsdp_ranks,
            1
            if self.setting.profile.reduces_each_micro_batch and self.pp == 1
            else self.micro_batches,
            whole_stage=self.pp > 1,
            state_bytes=self.spec.optimizer.state_bytes,
        )
        if self.sharding != "zero3":
            state["gradients"] *= self.setting.profile.gradient_bytes / 4
        virtual = self.spec.parallel.pipeline_virtual
        schedule = (self.pp, virtual, self.micro_batches)
        in_flight = micro_batches_in_flight(rank, *schedule) if self.pp > 1 else 1
        runs = [(name, len(list(run))) for name, run in groupby(layers)]
        gradients = step_gradients(
            self.program, parameters, dtype, self.sharding, self.micro_batches
        )
        alive, logits = self._alive(runs, in_flight, last, gradients)
        tensors = sum(state.values()) + alive + logits
        process = CONTEXT if self.setting.device.is_gpu else CPU_PROCESS
        process += self.setting.profile.communicator * self.communicators
        return Memory(
            **state, activations=alive, logits=logits, overhead=process + FRAGMENTS * tensors
        )

    def _alive(
        self,
        runs: Sequence[tuple[str, int]],
        in_flight: float,
        last: bool,
        gradients: StepGradients,
    ) -> tuple[float, float]:
        """Return (activations, logits) in bytes at a pipeline rank's memory peak.

        llamac's logits exist only while the head runs, before layers' backward passes. Those that a
        framework materialises whole are added to the layers' peak, since torch's allocator does
        not reuse such large blocks for smaller tensors (reserved memory of torchtitan's runs).
        """
        activations = self.activations
        if last and self.setting.profile.logit_bytes is not None:
            return peak_activation_bytes(
                activations, runs, in_flight, True, gradients
            ), activations.logits
        alive = peak_activation_bytes(activations, runs, in_flight, False, gradients)
        if last:
            peak, head_logits_bytes = head_peak(self.program, activations.logits)
            head = peak_activation_bytes(
                replace(activations, head_peak=peak), runs, in_flight, True, gradients
            )
            if head > alive:
                return head - head_logits_bytes, head_logits_bytes
        return alive, 0.0

    @property
    def communicators(self) -> int:
        """Return the number of kinds of parallelism with NCCL communicators.

        They are tensor, context, pipeline and data parallelism, if of more than one rank.
        """
        return sum(size > 1 for size in (self.tp, self.cp, self.pp, self.data))

    # -- traffic ------------------------------------------------------------------------------

    def _communication(self) -> dict[str, float]:
        """Return bytes that a rank sends per step, by mesh axis; of the first pipeline rank."""
        names = (*self.stages[0], "embed", *(("head",) if self.pp == 1 else ()))
        m = self.micro_batches
        sent = {
            axis: m * sum(self.times[name].sent[axis] for name in names)
            for axis in self.program.mesh
        }
        sent |= self.data_parallel(0).sent(len(self.stages[0]))
        if self.pp > 1:
            sent["pp"] = m * self.stream_bytes() * (2 * self.spec.parallel.pipeline_virtual - 1)
        return sent
