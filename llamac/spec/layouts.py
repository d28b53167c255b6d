"""Which layouts of ranks a model and a batch can be divided over."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llamac.spec.batch import Batch
from llamac.spec.errors import Problem, either, nearest_divisors, nearest_multiples
from llamac.spec.model import Model
from llamac.spec.parallel import Parallel

Layout = tuple[int, int]  # tensor and context ranks
SUGGESTIONS = 3


def layout_fits(parallel: Parallel, model: Model, batch: Batch) -> Iterator[Problem]:
    """Heads, features, vocabulary and positions divide over the tensor and the context ranks."""
    layout = (parallel.tensor, parallel.context)
    wrong = _complaints(layout, parallel.sequence, model, batch)
    near = _nearest(layout, set(wrong), parallel, model, batch)
    for key, message in wrong.items():
        yield Problem(("parallel", key), message, f"{either(_words(near, layout))} works")


def batch_divides_over_data_ranks(parallel: Parallel, batch: Batch) -> Iterator[Problem]:
    """Every rank that reads sequences of its own gets as many whole micro-batches as the others."""
    data = parallel.data_shard * parallel.data_replicate
    together = batch.micro_batch * data
    if data > 1 and batch.sequences % together:
        message = f"data_shard × data_replicate = {data} ranks take {together} sequences at a time "
        message += f"(micro_batch = {batch.micro_batch}), which do not divide a step's "
        message += f"{batch.sequences}"
        per_rank = batch.sequences // batch.micro_batch
        shards = nearest_divisors(data, of=per_rank)
        fitting = [n for n in shards if n % parallel.data_replicate == 0]
        ways = _steps(batch, of=together)
        if fitting:
            degrees = (n // parallel.data_replicate for n in fitting)
            ways += f" or data_shard = {either(degrees)}"
        key = "data_shard" if parallel.data_shard > 1 else "data_replicate"
        yield Problem(("parallel", key), message, f"{ways} works")


def layers_divide_into_stages(parallel: Parallel, model: Model, batch: Batch) -> Iterator[Problem]:
    """Every stage has layers, and there are micro-batches to keep all of them at work."""
    ranks, virtual = parallel.pipeline, parallel.pipeline_virtual
    if ranks == 1:
        if virtual > 1:
            message = f"pipeline_virtual = {virtual} has no effect with pipeline = 1"
            ways = "pipeline_virtual = 1 or pipeline = 2 works"
            yield Problem(("parallel", "pipeline_virtual"), message, ways)
        return
    if model.tied_embeddings:
        message = f"pipeline = {ranks} has the embedding on its first stage and the output "
        message += "projection on its last, but tied_embeddings = true makes them one"
        ways = "pipeline = 1 or model.tied_embeddings = false works"
        yield Problem(("parallel", "pipeline"), message, ways)
    if parallel.stages > model.n_layers:
        message = f"pipeline = {ranks} × pipeline_virtual = {virtual} makes {parallel.stages} "
        message += f"stages of n_layers = {model.n_layers}"
        most, key = model.n_layers // ranks, "pipeline_virtual"
        if virtual == 1 or not most:
            most, key = model.n_layers // virtual, "pipeline"
        yield Problem(("parallel", key), message, f"{key} = {max(1, most)} works")
    yield from _micro_batches_fill_the_pipeline(parallel, batch)


def _micro_batches_fill_the_pipeline(parallel: Parallel, batch: Batch) -> Iterator[Problem]:
    ranks, data = parallel.pipeline, parallel.data_shard * parallel.data_replicate
    together = batch.micro_batch * data
    count = batch.sequences // together

    def rounds(count: int) -> int:
        return count // ranks if parallel.pipeline_virtual > 1 else 1

    def fill(count: int) -> bool:
        return count >= ranks and count % rounds(count) == 0

    if fill(count):
        return
    message = f"pipeline = {ranks} stages work on {count} micro-batches a step "
    message += f"({batch.sequences} sequences / {data} data ranks / micro_batch = "
    message += f"{batch.micro_batch}), "
    message += "too few for all" if count < ranks else f"which {rounds(count)} rounds do not divide"
    ways = _steps(batch, of=together * ranks)
    per_rank = batch.sequences // data
    smaller = [n for n in range(1, batch.micro_batch) if per_rank % n == 0 and fill(per_rank // n)]
    if smaller:
        ways = f"batch.micro_batch = {smaller[-1]} or {ways}"
    yield Problem(("parallel", "pipeline"), message, f"{ways} works")


def _steps(batch: Batch, of: int) -> str:
    """The step sizes nearest to the spec's that are multiples of so many sequences."""
    sequences = nearest_multiples(batch.sequences, of=of)
    if batch.given("tokens"):
        return f"batch.tokens = {either(n * batch.sequence_length for n in sequences)}"
    return f"batch.sequences = {either(sequences)}"


def _complaints(layout: Layout, sequence: bool, model: Model, batch: Batch) -> dict[str, str]:
    """What is wrong with a layout, by the key to blame."""
    tensor, context = layout
    length, vocabulary, kv_heads = batch.sequence_length, model.vocab_size, model.n_kv_heads
    if context > 1 and length % (2 * context):
        return {
            "context": f"context = {context} gives each rank two chunks of the positions, but "
            f"{2 * context} does not divide sequence_length = {length}"
        }
    sizes = {
        f"n_heads = {model.n_heads}": model.n_heads,
        f"ffn_dim = {model.ffn_dim}": model.ffn_dim,
    }
    if sequence and tensor > 1:
        positions = length // context
        shared = f"sequence_length = {length}" + (f" / {context}" if context > 1 else "")
        sizes[f"{shared} (sequence = true)"] = positions
    undivided = [name for name, size in sizes.items() if size % tensor]
    reasons = [f"does not divide {', nor '.join(undivided)}"] if undivided else []
    if kv_heads % tensor and tensor % kv_heads:
        reasons.append(f"neither divides n_kv_heads = {kv_heads} nor is a multiple of it")
    if (tensor - 1) * -(-vocabulary // tensor) >= vocabulary:
        reasons.append(f"leaves a rank without a row of vocab_size = {vocabulary}")
    return {"tensor": f"tensor = {tensor} {', and '.join(reasons)}"} if reasons else {}


def _nearest(
    layout: Layout, blamed: set[str], parallel: Parallel, model: Model, batch: Batch
) -> list[Layout]:
    """The layouts nearest to one, by ratio, that break no rule and change as little as can be."""
    tensor, context = layout
    tensors = [n for n in range(1, model.n_heads + 1) if model.n_heads % n == 0]
    contexts = [1, *(n for n in range(2, 4 * context + 1) if batch.sequence_length % (2 * n) == 0)]
    alone = {
        "tensor": [(other, context) for other in tensors],
        "context": [(tensor, other) for other in contexts],
    }
    both = [(t, c) for t in tensors for c in contexts]
    for candidates in (*(alone[key] for key in sorted(blamed)), both):
        working = [
            other for other in candidates if not _complaints(other, parallel.sequence, model, batch)
        ]
        if working:
            return sorted(working, key=lambda other: (_distance(layout, other), other))[
                :SUGGESTIONS
            ]
    return [(1, 1)]


def _distance(layout: Layout, other: Layout) -> float:
    return sum(abs(math.log(new / old)) for new, old in zip(other, layout, strict=True))


def _words(near: list[Layout], layout: Layout) -> Iterator[str]:
    """Each layout by what it changes."""
    for found in near:
        pairs = zip(("tensor", "context"), found, layout, strict=True)
        changed = [f"{key} = {new}" for key, new, old in pairs if new != old]
        yield " with ".join(changed)
