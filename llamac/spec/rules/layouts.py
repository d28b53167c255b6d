"""Rules that a model and a batch divide evenly over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain, islice

from llamac.spec.batch import Batch
from llamac.spec.model import Model
from llamac.spec.parallel import Parallel
from llamac.spec.validation.errors import Problem, divisors, join_options

Layout = tuple[int, int]
"""Tensor-parallel and context-parallel degree."""

SUGGESTIONS = 3
"""Most layouts that a hint names."""

SEARCHED = 10_000
"""Largest number of candidates tried for a suggestion, so that a check is fast for any degree."""


def layout_fits(parallel: Parallel, model: Model, batch: Batch) -> Iterator[Problem]:
    """Yield problems unless heads, features and positions divide over tensor and context ranks.

    Each tensor rank must also have a row of the vocabulary.
    """
    layout = (parallel.tensor, parallel.context)
    wrong = layout_problems(layout, parallel.sequence, model, batch)
    near = _nearest(layout, set(wrong), parallel, model, batch)
    for key, message in wrong.items():
        yield Problem(("parallel", key), message, f"{join_options(_words(near, layout))} works")


def batch_divides_over_ranks(parallel: Parallel, batch: Batch) -> Iterator[Problem]:
    """Yield a problem unless all data-parallel ranks get equally many whole micro-batches.

    They must also suffice to keep all pipeline ranks busy (`fills_pipeline`).
    """
    ranks, replicas, shards = parallel.pipeline, parallel.data_replicate, parallel.data_shard
    sequences, micro, data = batch.sequences, batch.micro_batch, replicas * shards
    virtual = parallel.pipeline_virtual

    def works(sequences: int, micro: int = micro, data: int = data, ranks: int = ranks) -> bool:
        whole = sequences % (micro * data) == 0
        return whole and fills_pipeline(sequences // (micro * data), ranks, virtual)

    if works(sequences):
        return
    if sequences % (micro * data):
        key, others = ("data_shard", replicas) if shards > 1 else ("data_replicate", shards)
        message = f"data_shard × data_replicate = {data} ranks take {micro * data} sequences at a "
        message += f"time (micro_batch = {micro}), which do not divide a step's {sequences}"
        now, whole = data // others, sequences // (micro * others)
        fits = not sequences % (micro * others)
        degrees = [n for n in divisors(whole) if works(sequences, data=n * others)] if fits else []
        near = [n for n in degrees if n < now][-1:] + [n for n in degrees if now < n <= 2 * now][:1]
    else:
        key, count = "pipeline", sequences // (micro * data)
        message = f"pipeline = {ranks} ranks work on {_micro_batches(count)} a step "
        message += f"({sequences} sequences / {data} data ranks / micro_batch = {micro}), "
        odd = f"which {count // ranks} rounds do not divide"
        message += "too few for all" if count < ranks else odd
        fewest = 1 if virtual == 1 else 2
        fewer = range(min(ranks - 1, count), fewest - 1, -1)
        near = _first(n for n in fewer[:SEARCHED] if works(sequences, ranks=n))
    each = divisors(sequences // data) if not sequences % data else []
    smaller = _first(n for n in reversed(each) if n < micro and works(sequences, micro=n))
    ways = [f"batch.micro_batch = {n}" for n in smaller]
    ways.append(_steps_around(batch, micro * data, ranks, works))
    ways += [f"{key} = {join_options(near)}"] if near else []
    yield Problem(("parallel", key), message, f"{join_options(ways)} works")


def _first(found: Iterator[int]) -> list[int]:
    return list(islice(found, 1))


def _micro_batches(count: int) -> str:
    return "1 micro-batch" if count == 1 else f"{count} micro-batches"


def fills_pipeline(micro_batches: int, ranks: int, virtual: int) -> bool:
    """Return whether a step's micro-batches keep all pipeline ranks busy.

    With several stages per rank they must also form equal rounds.

    micro_batches: micro-batches per step. ranks: pipeline ranks. virtual: stages per rank.
    """
    rounds = max(1, micro_batches // ranks) if virtual > 1 else 1
    return micro_batches >= ranks and micro_batches % rounds == 0


def _steps_around(batch: Batch, of: int, ranks: int, works: Callable[[int], bool]) -> str:
    """Return text on the valid batch sizes nearest to the spec's, among multiples of `of`."""
    now = batch.sequences // of
    below = [n * of for n in range(now, ranks - 1, -1)[:SEARCHED] if works(n * of)][:1]
    least = max(now + 1, ranks)
    whole = -(-least // ranks) * ranks  # rounds of them always work
    tried = chain(range(least, min(whole, least + SEARCHED)), [whole])
    sizes = [*below, *_first(n * of for n in tried if works(n * of))]
    if batch.is_set("tokens"):
        return f"batch.tokens = {join_options(n * batch.sequence_length for n in sizes)}"
    return f"batch.sequences = {join_options(sizes)}"


def layers_divide_into_stages(parallel: Parallel, model: Model, batch: Batch) -> Iterator[Problem]:
    """Yield problems if pipeline stages would have no layer, or would share tied weights.

    Several stages per rank are a problem without pipeline parallelism.
    """
    ranks, virtual = parallel.pipeline, parallel.pipeline_virtual
    if ranks == 1:
        if virtual > 1:
            message = f"pipeline_virtual = {virtual} has no effect with pipeline = 1"
            yield Problem(("parallel", "pipeline_virtual"), message, "pipeline_virtual = 1 works")
        return
    alone = "pipeline = 1" + " with pipeline_virtual = 1" * (virtual > 1)
    if model.tied_embeddings:
        message = f"pipeline = {ranks} puts the embedding on the first stage and the output "
        message += "projection on the last, but tied_embeddings = true makes them share weights"
        ways = f"{alone} or model.tied_embeddings = false works"
        yield Problem(("parallel", "pipeline"), message, ways)
    if parallel.stages > model.n_layers:
        message = f"pipeline = {ranks} × pipeline_virtual = {virtual} makes {parallel.stages} "
        message += f"stages of n_layers = {model.n_layers}"
        key = "pipeline" if virtual == 1 else "pipeline_virtual"
        ways = join_options(_fewer_stages(parallel, model, batch)) or alone
        yield Problem(("parallel", key), message, f"{ways} works")


def _fewer_stages(parallel: Parallel, model: Model, batch: Batch) -> Iterator[str]:
    """Yield hints on the most stages with layers: fewer per rank, or fewer ranks."""
    ranks, virtual = parallel.pipeline, parallel.pipeline_virtual
    count = batch.micro_batches(parallel.data_ranks)
    idle = not fills_pipeline(count, ranks, virtual)  # which is a problem of its own

    def works(ranks: int, virtual: int) -> bool:
        return ranks * virtual <= model.n_layers and (idle or fills_pipeline(count, ranks, virtual))

    fewest = 1 if virtual == 1 else 2
    most = min(virtual - 1, model.n_layers // ranks), min(ranks - 1, model.n_layers // virtual)
    each = _first(n for n in range(most[0], 0, -1) if works(ranks, n))
    fewer = _first(n for n in range(most[1], fewest - 1, -1) if works(n, virtual))
    yield from (f"pipeline_virtual = {n}" for n in each)
    yield from (f"pipeline = {n}" for n in fewer)


def layout_problems(layout: Layout, sequence: bool, model: Model, batch: Batch) -> dict[str, str]:
    """Return why a layout is impossible: a message by key of [parallel], or {} if it is possible.

    layout: tensor and context degree. sequence: whether sequence parallelism is used.
    """
    tensor, context = layout
    length, vocabulary, kv_heads = batch.sequence_length, model.vocab_size, model.n_kv_heads
    if context > 1 and length % (2 * context):
        return {
            "context": f"context = {context} gives each rank two chunks of a sequence, but "
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
    """Return the valid layouts nearest to one by ratio, with the fewest changed degrees."""
    tensor, context = layout
    tensors = divisors(model.n_heads)
    halves = divisors(batch.sequence_length // 2) if batch.sequence_length % 2 == 0 else []
    contexts = [1, *(n for n in halves if 1 < n <= 4 * context)]
    alone = {
        "tensor": [(other, context) for other in tensors],
        "context": [(tensor, other) for other in contexts],
    }
    both = [(t, c) for t in tensors for c in contexts]
    for candidates in (*(alone[key] for key in sorted(blamed)), both):
        working = [
            other
            for other in candidates
            if not layout_problems(other, parallel.sequence, model, batch)
        ]
        if working:
            return sorted(working, key=lambda other: (_distance(layout, other), other))[
                :SUGGESTIONS
            ]
    return [(1, 1)]


def _distance(layout: Layout, other: Layout) -> float:
    return sum(abs(math.log(new / old)) for new, old in zip(other, layout, strict=True))


def _words(near: list[Layout], layout: Layout) -> Iterator[str]:
    """Yield a text per layout that lists its changed degrees."""
    for found in near:
        pairs = zip(("tensor", "context"), found, layout, strict=True)
        changed = [f"{key} = {new}" for key, new, old in pairs if new != old]
        yield " with ".join(changed)
