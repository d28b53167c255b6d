"""Activation memory under a framework: what it keeps beside the values of our graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

from torch import fx

from llamac.ir.graph import is_op, op_of, ops_in, placeholders, type_of
from llamac.ir.program import Program, Region
from llamac.ir.values import operands_of
from llamac.ops.norm import head_rms_norm, rms_norm
from llamac.passes.footprint import Activations, activations
from llamac.passes.liveness import Live
from llamac.plan.cost.framework import SOFTMAX_DROPOUT, ScoreTraffic
from llamac.plan.setting import Setting


def framework_activations(setting: Setting, program: Program) -> Activations:
    """Activation bytes of one micro-batch: by liveness, and what the profile says besides."""
    profile = setting.profile
    logit_bytes = profile.logit_bytes
    if logit_bytes is not None and profile.gathers_logits:
        logit_bytes *= setting.spec.parallel.tensor
    keeps_scores = not setting.recomputes_attention
    found = activations(program, keeps_scores, logit_bytes)
    if profile.scores is not None:
        found = _with_scores(found, program, profile.scores, keeps_scores)
    if profile.norm_kept:
        found = _with_norms(found, program, profile.norm_kept)
    if setting.fp8 and profile.fp8_kept != 1.0:
        found = _with_fp8(found, profile.fp8_kept)
    return found


def _with_scores(
    found: Activations, program: Program, scores: ScoreTraffic, keeps: bool
) -> Activations:
    """Replace the attention scores that `activations` counts by those that the framework holds.

    `activations` counts the scores of a softmax with dropout.
    """
    bare, counted = activations(program, False), activations(program, True)
    kept, peak = dict(found.kept), dict(found.peak)
    for name in kept:
        held = counted.kept[name] - bare.kept[name]
        if keeps:
            kept[name] += held * (scores.kept / SOFTMAX_DROPOUT.kept - 1)
        written = _scores(program.regions[name], program.symbols)
        peak[name] += written * (scores.peak - SOFTMAX_DROPOUT.peak)
    return replace(found, kept=kept, peak=peak)


def _scores(region: Region, symbols: Mapping[str, int]) -> float:
    """Scores that attention writes in a region."""
    total = 0.0
    for node in ops_in(region.forward.graph):
        if node.kwargs.get("kernel") == "math":
            query = type_of(operands_of(node)[0])
            total += query.elements(symbols) / int(query.shape[3]) * symbols[str(query.shape[1])]
    return total


def _with_norms(found: Activations, program: Program, nbytes: float) -> Activations:
    """Add the fp32 copies that op-by-op norms keep for their backward pass.

    They live as long as activations are kept, unless they are recomputed, and while their region
    runs.
    """
    kept, peak = dict(found.kept), dict(found.peak)
    for name in kept:
        region = program.regions[name]
        every = nbytes * _normed(region.forward.graph, program.symbols)
        again = region.backward is not None and _normed(region.backward.graph, program.symbols)
        kept[name] += 0.0 if again else every
        peak[name] += every
    return replace(found, kept=kept, peak=peak)


def _normed(graph: fx.Graph, symbols: Mapping[str, int]) -> float:
    """Elements that RMSNorms read in a graph."""
    norms = (node for node in ops_in(graph) if is_op(node, rms_norm, head_rms_norm))
    return sum(type_of(operands_of(node)[0]).elements(symbols) for node in norms)


def _with_fp8(found: Activations, share: float) -> Activations:
    """Activations where linear layers keep their inputs in fp8."""
    kept = {name: share * nbytes for name, nbytes in found.kept.items()}
    less = {name: nbytes - kept[name] for name, nbytes in found.kept.items()}
    peak = {name: nbytes - less[name] for name, nbytes in found.peak.items()}
    return replace(found, kept=kept, peak=peak)


def head_logits(program: Program) -> float:
    """Logits of a micro-batch that a rank computes: those of its part of the vocabulary."""
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
    """Return (peak bytes of the head, bytes of its logits), `logits` bytes alive during the loss.

    Cached per head graph and micro-batch size.
    """
    region = program.regions["head"]
    known = _peaks.setdefault(region.forward, {})
    key = (logits, *program.symbols.items())
    if key not in known:
        known[key] = max(_head_moments(region, program.symbols, logits))
    return known[key]


def _head_moments(
    region: Region, symbols: Mapping[str, int], logits: float
) -> Iterator[tuple[float, float]]:
    """Yield (bytes alive, bytes of logits) while each of the head's ops runs."""
    for module, saved in ((region.forward, region.saved), (region.backward, ())):
        if module is None:
            continue
        live = Live(module.graph, saved, symbols)
        for node in ops_in(module.graph):
            here = logits if "cross_entropy" in op_of(node).name else 0.0
            yield live.during(node) + here, here
            live.run(node)
