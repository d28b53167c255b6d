"""`llamac verify` is worth what it catches: each fault is put in, and must be found and placed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch

from llamac.cli import main
from llamac.emit import build
from llamac.ir.graph import ops_in, placeholders, type_of
from llamac.ir.op import OPS
from llamac.ir.program import Program
from llamac.passes.activation_checkpoint import ActivationCheckpoint
from llamac.passes.fuse import Fuse
from llamac.passes.pack import Pack
from llamac.passes.select_kernels import SelectKernels
from llamac.passes.shard import Shard
from llamac.runtime.distributed import vocab_parallel
from llamac.runtime.kernels.attention import attention_sdpa


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`complaint(*overrides)`: what `llamac verify tiny` says as it exits with 3."""

    def complaint(*overrides: str) -> str:
        assert main(["verify", "tiny", *(f"--set={override}" for override in overrides)]) == 3
        captured = capsys.readouterr()
        assert "compiled correctly" not in captured.out
        assert captured.err.count("llamac verify: tiny is wrong from stage") == 1
        return captured.err

    return complaint


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`change(op, rule, wrap)`: replaces a rule of an op by `wrap(rule)`."""

    def change(op: str, rule: str, wrap: Callable[[Any], Any]) -> None:
        monkeypatch.setitem(vars(OPS[op]), rule, wrap(getattr(OPS[op], rule)))

    return change


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`after(pass, damage)`: the pass goes on to damage the Program it made."""

    def after(step: type, damage: Callable[[Program], Program]) -> None:
        apply = step.apply  # type: ignore[attr-defined]
        monkeypatch.setattr(step, "apply", lambda self, program: damage(apply(self, program)))

    return after


@pytest.fixture
def misprint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """`misprint(right, wrong)`: model.py is emitted with this in place of that."""

    def misprint(right: str, wrong: str) -> None:
        files_of = build.files_of

        def emit(*arguments: Any) -> dict[str, str]:
            files = files_of(*arguments)
            if right not in files["model.py"]:  # an assertion would count as what is caught
                pytest.fail(f"model.py has no {right!r}")
            return files | {"model.py": files["model.py"].replace(right, wrong)}

        monkeypatch.setattr(build, "files_of", emit)

    return misprint


def negated(function: Callable) -> Callable:
    """The same, its tensors with the other sign."""

    @wraps(function)  # what is emitted is its name
    def negated(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return tuple(-one for one in value) if isinstance(value, tuple) else -value

    return negated


# -- ops -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wrong_sign_in_a_gradient(complaint, change) -> None:
    change("silu_backward", "eager", negated)
    said = complaint()
    # 2 for a gradient that passes one silu; the worst passes several, and is near 2.
    wrong = r"from stage `lower` on: relative error 2\.\de\+00 in the gradient of layers\."
    assert re.search(wrong, said)
    assert "the tolerance is 1e-09" in said


@pytest.mark.slow
def test_a_wrong_sign_that_only_a_fused_op_has(complaint, change) -> None:
    change("packed_swiglu_backward", "eager", negated)
    assert "from stage `fuse` on" in complaint()


@pytest.mark.slow
def test_a_vjp_that_sends_a_cotangent_to_the_wrong_operand(complaint, change) -> None:
    change("mul", "vjp", lambda rule: lambda *args: tuple(reversed(rule(*args))))
    assert "from stage `lower` on" in complaint()


def test_a_vjp_that_forgets_an_operand(complaint, change) -> None:
    change("rms_norm", "vjp", lambda rule: lambda *args: (rule(*args)[0], None))
    assert "from stage `lower` on" in complaint()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_gradient_that_is_no_number(complaint, change, wrong: float) -> None:
    def spoil(function: Callable) -> Callable:
        @wraps(function)
        def spoiled(*args: Any) -> torch.Tensor:
            gradient = function(*args)
            gradient[0, 0] = wrong
            return gradient

        return spoiled

    change("linear_weight_gradient", "eager", spoil)
    assert "from stage `lower` on" in complaint()


@pytest.mark.slow
def test_a_scale_missing_in_one_kernel(complaint, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention_sdpa.attention
    monkeypatch.setattr(attention_sdpa, "attention", lambda q, k, v, scale: right(q, k, v, 1.0))
    assert "from stage `select_kernels` on" in complaint()


@pytest.mark.slow
def test_a_loss_without_its_ragged_last_chunk(complaint, change) -> None:
    def spoil(function: Callable) -> Callable:
        @wraps(function)
        def spoiled(x: Any, weight: Any, labels: Any, chunk: int) -> Any:
            whole = labels.numel() // chunk * chunk
            loss, d_x, d_weight = function(
                x.flatten(0, 1)[None, :whole], weight, labels.flatten()[None, :whole], chunk
            )
            rest = x.flatten(0, 1)[None, whole:] * 0
            return loss, torch.cat([d_x, rest], 1).view_as(x), d_weight

        return spoiled

    change("linear_cross_entropy_with_gradients", "eager", spoil)
    assert "from stage `fuse` on" in complaint()


@pytest.mark.slow
def test_a_loss_that_is_wrong_in_evaluation_only(complaint, change) -> None:
    change("linear_cross_entropy", "eager", negated)
    assert "from stage `fuse` on: relative error 2.0e+00 in the loss in evaluation" in complaint()


# -- passes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pack_that_records_another_order(complaint, after) -> None:
    def swap(program: Program) -> Program:
        name = "layers.*.feed_forward.w13"
        entry = program.parameters[name]
        swapped = replace(entry, pieces=tuple(reversed(entry.pieces)))
        return replace(program, parameters={**program.parameters, name: swapped})

    after(Pack, swap)
    assert "from stage `pack` on" in complaint()


@pytest.mark.slow
def test_a_pack_that_loses_a_parameter(complaint, after) -> None:
    def lose(program: Program) -> Program:
        name = "layers.*.feed_forward.w13"
        entry = program.parameters[name]
        twice = replace(entry, pieces=entry.pieces[:1] * 2)
        return replace(program, parameters={**program.parameters, name: twice})

    after(Pack, lose)
    said = complaint()
    assert "from stage `pack` on" in said
    assert "no parameter contains layers.0.feed_forward.w3" in said


def attributes(program: Program, region: str, op: str, **values: Any) -> Program:
    """Sets attributes of every such op in a region's forward graph."""
    for node in ops_in(program.regions[region].forward.graph):
        if node.target is OPS[op]:
            node.kwargs = {**node.kwargs, **values}
    return program


@pytest.mark.slow
def test_a_fusion_with_another_rope_layout(complaint, after) -> None:
    after(Fuse, lambda program: attributes(program, "block", "rope", layout="half_split"))
    assert "from stage `fuse` on" in complaint()


@pytest.mark.slow
def test_a_fusion_that_rotates_too_many_heads(complaint, after) -> None:
    after(Fuse, lambda program: attributes(program, "block", "rope", heads=None))
    assert "from stage `fuse` on" in complaint()


@pytest.mark.slow
def test_a_pass_that_drops_the_scale(complaint, after) -> None:
    after(SelectKernels, lambda program: attributes(program, "block", "attention", scale=1.0))
    assert "from stage `select_kernels` on" in complaint()


@pytest.mark.slow
def test_a_pass_that_breaks_the_inference_path_only(complaint, after) -> None:
    after(SelectKernels, lambda program: attributes(program, "logits", "rms_norm", eps=0.1))
    said = complaint()
    assert "from stage `select_kernels` on" in said
    assert "in the logits of a prompt" in said


def test_a_checkpoint_that_drops_a_save(complaint, after) -> None:
    def drop(program: Program) -> Program:
        block = program.regions["block"]
        return program.with_region(replace(block, saved=block.saved[:-1]))

    after(ActivationCheckpoint, drop)
    said = complaint()
    assert "from stage `checkpoint` on" in said
    assert "not in the saved set" in said


@pytest.mark.slow
def test_a_checkpoint_that_takes_one_save_for_another(complaint, after) -> None:
    def swap(program: Program) -> Program:
        backward = program.regions["block"].backward
        assert backward is not None
        saved = placeholders(backward.graph, "saved")
        one, other = next(
            (a, b) for a in saved for b in saved if a is not b and type_of(a) == type_of(b)
        )
        one.name, other.name = other.name, one.name
        return program

    after(ActivationCheckpoint, swap)
    assert "from stage `checkpoint` on: relative error" in complaint()


def test_a_sum_still_to_be_taken_that_is_labelled_a_whole_value(complaint, after) -> None:
    """DTensor's silent killer: a Partial labelled Replicate."""

    def unsummed(program: Program) -> Program:
        graph = program.regions["block"].forward.graph
        node = next(node for node in ops_in(graph) if node.target is OPS["all_reduce"])
        [part] = node.all_input_nodes
        part.meta["type"] = type_of(node)
        node.replace_all_uses_with(part)
        graph.erase_node(node)
        return program

    after(Shard, unsummed)
    said = complaint("parallel.tensor=2", "parallel.sequence=false")
    assert "from stage `shard` on" in said
    assert re.search(r"recorded type (\S+), but the op infers \1@tp:P", said)


@pytest.mark.slow
def test_padding_of_a_vocabulary_that_takes_part_in_the_loss(
    complaint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocab_parallel, "_without_padding", lambda logits, *_: logits)
    said = complaint("parallel.tensor=2", "model.vocab_size=8191")
    assert re.search("from stage `shard` on: relative error .* in the ", said)


# -- emission --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('layout="interleaved"', 'layout="half_split"'),
        ("theta=10000.0", "theta=10001.0"),
        ("NORM_EPS = 1e-05", "NORM_EPS = 2e-05"),
        ("scale=HEAD_DIM**-0.5", "scale=1.0"),
        ("return d_x, d_attention_norm,", "return d_x, d_ffn_norm,"),
        ("*inputs, *saved)", "*saved, *inputs)"),
        ('("layers.*.feed_forward.w1", ', '("layers.*.feed_forward.w0", '),
        ("def forward(", "def forward(("),
    ],
)
def test_a_misprint_in_model_py(complaint, misprint, right: str, wrong: str) -> None:
    misprint(right, wrong)
    assert "from stage `model.py` on" in complaint()


@pytest.mark.slow
def test_attention_that_leaks_from_one_document_into_the_next(complaint, misprint) -> None:
    misprint("document_starts(tokens, EOS)", "document_starts(tokens, -1)")
    assert "from stage `model.py` on" in complaint("data.document_mask=true")
