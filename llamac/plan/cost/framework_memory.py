"""Activation memory under a framework: liveness of the graphs, and tensors that it also saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

from torch import fx

from llamac.ir.graph import is_op, op_of, ops_in, placeholders, type_of
from llamac.ir.program import Program, Region
from llamac.ir.values import operands_of
from llamac.ops.norm import head_rms_norm, rms_norm
from llamac.passes.analysis.liveness import LiveMemory
from llamac.passes.analysis.peak_memory import Activations, activations
from llamac.plan.cost.framework import SOFTMAX_DROPOUT, ScoreTraffic
from llamac.plan.setting import Setting


def framework_activations(setting: Setting, program: Program) -> Activations:
    """Return the activation bytes of one micro-batch, adjusted to the setting's framework.

    program: the setting's compiled spec.
    """
    profile = setting.profile
    logit_bytes = profile.logit_bytes
    if logit_bytes is not None and profile.gathers_logits:
        logit_bytes *= setting.spec.parallel.tensor
    saves_scores = not setting.recomputes_attention
    result = activations(program, saves_scores, logit_bytes)
    if profile.scores is not None:
        result = _with_scores(result, program, profile.scores, saves_scores)
    if profile.norm_saved_bytes:
        result = _with_norms(result, program, profile.norm_saved_bytes)
    if setting.fp8 and profile.fp8_saved != 1.0:
        result = _with_fp8(result, profile.fp8_saved)
    return result


def _with_scores(
    result: Activations, program: Program, scores: ScoreTraffic, saves: bool
) -> Activations:
    """Return activations with the framework's attention scores in place of those counted.

    `activations` counts the scores of a softmax with dropout.
    """
    bare, counted = activations(program, False), activations(program, True)
    saved, peak = dict(result.saved), dict(result.peak)
    for name in saved:
        scores_bytes = counted.saved[name] - bare.saved[name]
        if saves:
            saved[name] += scores_bytes * (scores.saved / SOFTMAX_DROPOUT.saved - 1)
        written = _scores(program.regions[name], program.symbols)
        peak[name] += written * (scores.peak - SOFTMAX_DROPOUT.peak)
    return replace(result, saved=saved, peak=peak)


def _scores(region: Region, symbols: Mapping[str, int]) -> float:
    """Return the number of attention scores materialised in a region."""
    total = 0.0
    for node in ops_in(region.forward.graph):
        if node.kwargs.get("kernel") == "math":
            query = type_of(operands_of(node)[0])
            total += query.elements(symbols) / int(query.shape[3]) * symbols[str(query.shape[1])]
    return total


def _with_norms(result: Activations, program: Program, nbytes: float) -> Activations:
    """Return activations plus the fp32 copies that unfused norms save for their backward pass.

    They live as long as activations are saved, unless they are recomputed, and while their region
    runs.
    """
    saved, peak = dict(result.saved), dict(result.peak)
    for name in saved:
        region = program.regions[name]
        norm_bytes = nbytes * _norm_elements(region.forward.graph, program.symbols)
        recomputed = region.backward is not None and _norm_elements(
            region.backward.graph, program.symbols
        )
        saved[name] += 0.0 if recomputed else norm_bytes
        peak[name] += norm_bytes
    return replace(result, saved=saved, peak=peak)


def _norm_elements(graph: fx.Graph, symbols: Mapping[str, int]) -> float:
    """Return the number of elements that a graph's RMSNorms read."""
    norms = (node for node in ops_in(graph) if is_op(node, rms_norm, head_rms_norm))
    return sum(type_of(operands_of(node)[0]).elements(symbols) for node in norms)


def _with_fp8(result: Activations, share: float) -> Activations:
    """Return activations with linear layers' inputs saved in fp8."""
    saved = {name: share * nbytes for name, nbytes in result.saved.items()}
    saved_less = {name: nbytes - saved[name] for name, nbytes in result.saved.items()}
    peak = {name: nbytes - saved_less[name] for name, nbytes in result.peak.items()}
    return replace(result, saved=saved, peak=peak)


def head_logits(program: Program) -> float:
    """Return the number of logits of a micro-batch on a rank, for its shard of the vocabulary."""
    graph = program.regions["head"].forward.graph
    weights = [type_of(node) for node in placeholders(graph, "param")]
    vocabulary = max(weights, key=lambda one: one.elements({})).shape[0]
    x = next(type_of(node) for node in placeholders(graph, "input"))
    width = x.shape[-1]
    assert isinstance(vocabulary, int)
    assert isinstance(width, int)
    return x.elements(program.symbols) / width * vocabulary


_peaks: WeakKeyDictionary[fx.GraphModule, dict[tuple[object, ...], tuple[float, float]]]
_peaks = WeakKeyDictionary()


def head_peak(program: Program, logits: float) -> tuple[float, float]:
    """Return (peak bytes alive in the region `head`, bytes of logits at that peak).

    The result is cached by graph and sizes. logits: bytes of logits that exist while the loss runs.
    """
    region = program.regions["head"]
    cached = _peaks.setdefault(region.forward, {})
    key = (logits, *program.symbols.items())
    if key not in cached:
        cached[key] = max(_head_moments(region, program.symbols, logits))
    return cached[key]


def _head_moments(
    region: Region, symbols: Mapping[str, int], logits: float
) -> Iterator[tuple[float, float]]:
    """Yield (bytes alive, bytes of logits) while each of the head's ops runs."""
    for module, saved in ((region.forward, region.saved), (region.backward, ())):
        if module is None:
            continue
        live = LiveMemory(module.graph, saved, symbols)
        for node in ops_in(module.graph):
            logit_bytes = logits if op_of(node).is_loss else 0.0
            yield live.bytes_during(node) + logit_bytes, logit_bytes
            live.run(node)
