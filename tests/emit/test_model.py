"""model.py as a module: dtypes, compilation, initial weights, and what it says of itself."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from llamac.emit.functions import wrap_statement
from llamac.emit.importing import import_emitted
from llamac.emit.model import nodes_by_line, render_model
from llamac.emit.python_source import WIDTH
from llamac.emit.sizes import Sizes
from llamac.ir.graph import ops_in
from llamac.ir.values import values_of
from llamac.passes.pass_list import compile_spec
from llamac.spec import Spec, load_spec
from tests.emit.conftest import (
    batch,
    files,
    gradients,
    load,
    random_weights,
    relative_error,
    small,
)


def run(module: Any, spec: Spec, weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients by canonical name."""
    model = module.Model()
    load(model, module.PACKED, weights)
    loss = model(*batch(spec))
    loss.backward()
    return loss.detach(), gradients(model, module.PACKED)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "selective", "full"])
def test_the_policy_changes_no_bit_of_the_gradients(policy: str, emitted) -> None:
    plain = small()
    spec = small(f"recompute.policy={policy}")
    module = emitted(spec)
    weights = random_weights(spec, module)
    loss, found = run(module, spec, weights)
    wanted_loss, wanted = run(emitted(plain), plain, weights)
    assert torch.equal(loss, wanted_loss)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tiny", "gpt3-block", "post-norm"])
def test_bfloat16_is_close_to_float32(base: str, emitted) -> None:
    spec = small("precision.compute=bf16", base=base)
    module = emitted(spec)
    weights = {
        name: weight.bfloat16().float()  # so that both start from the very same values
        for name, weight in random_weights(spec, module).items()
    }
    loss, found = run(module, spec, weights)
    fp32 = small("precision.compute=fp32", base=base)
    wanted_loss, wanted = run(emitted(fp32), fp32, weights)
    assert loss.dtype == torch.float32
    assert {gradient.dtype for gradient in found.values()} == {torch.bfloat16}
    assert relative_error(loss, wanted_loss) < 0.01  # bfloat16 holds 8 bits: 2⁻⁸ = 0.4 %
    for name, gradient in found.items():
        if not name.endswith("wk_bias"):  # zero but for rounding, without RoPE
            error = (gradient.float() - wanted[name]).norm() / wanted[name].norm()
            assert error < 0.05, (name, error)


@pytest.mark.slow
def test_all_layers_share_one_compilation(emitted, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small("model.n_layers=5")
    module = emitted(spec)
    weights = random_weights(spec, module)
    wanted_loss, wanted = run(module, spec, weights)
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compiler(function, backend=counter, **options)
    )
    torch._dynamo.reset()
    module.compile_regions()
    for _ in range(2):
        loss, found = run(module, spec, weights)
    assert counter.frame_count == 6  # forward and backward of embed, block and head
    assert torch.equal(loss, wanted_loss)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with torch.no_grad():
        module.Model()(*batch(spec))
    assert counter.frame_count <= 8  # evaluate; block's forward, for an x that needs no gradient


@pytest.mark.slow
def test_compiled_regions_compute_the_same(emitted) -> None:
    spec = small("model.n_kv_heads=2")
    module = emitted(spec)
    weights = random_weights(spec, module)
    wanted_loss, wanted = run(module, spec, weights)
    torch._dynamo.reset()
    module.compile_regions()
    loss, found = run(module, spec, weights)
    assert relative_error(loss, wanted_loss) < 1e-5
    for name, gradient in found.items():
        assert relative_error(gradient, wanted[name]) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_under_fsdp_no_region_returns_a_view(emitted, ranks: int) -> None:
    """Compiled code may: an in-place op on it would take FSDP's hook away, and FSDP warns."""
    spec = small(f"parallel.data_shard={ranks}", "batch.micro_batch=1")
    module = emitted(spec)
    plain = module.BlockFunction.run_forward

    def compiled(*operands: Tensor) -> Any:
        out, kept = plain(*operands)
        return out.view(out.shape), kept

    module.BlockFunction.run_forward = staticmethod(compiled)
    model, ends = module.Model(device="cpu", dtype=torch.float32), []
    module.initialise(model, 0)
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, out: ends.append(out))
    tokens, labels = batch(spec)
    model(tokens, labels).backward()
    assert [out._base is None for out in ends] == [ranks > 1] * spec.model.n_layers
    assert all(out.grad_fn is not None for out in ends)


def test_initial_weights_depend_on_seed_and_name_alone(emitted) -> None:
    spec = small("model.bias=true", "model.norm=layernorm", "model.n_layers=3")
    module = emitted(spec)

    def drawn(seed: int) -> dict[str, Tensor]:
        model = module.Model()
        module.initialise(model, seed)
        for parameter in model.parameters():
            parameter.grad = parameter.detach().clone()
        return gradients(model, module.PACKED)

    one, again, other = drawn(1), drawn(1), drawn(2)
    for name, weight in one.items():
        assert torch.equal(weight, again[name])
        if name.endswith("_bias"):
            assert (weight == 0).all(), name
        elif name.endswith("norm"):
            assert (weight == 1).all(), name
        else:
            assert not torch.equal(weight, other[name]), name
            residual = (2 * 3) ** -0.5 if name.endswith(("wo", "w2")) else 1.0
            assert weight.std().item() == pytest.approx(0.02 * residual, rel=0.05), name
            assert abs(weight.mean().item()) < 0.002, name


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tiny", "gpt3-block"])
def test_it_counts_its_parameters_and_flops(base: str, emitted) -> None:
    spec = small(base=base)
    module, model = emitted(spec), spec.model
    held = module.Model(device="meta")
    assert sum(p.numel() for p in held.parameters()) == module.PARAMETERS
    assert compile_spec(spec).parameter_count == module.PARAMETERS
    # PaLM's 6N + 12·L·d·s, written out: q, k, v, o and the feed-forward, and the output layer.
    width = model.n_heads * model.head_dim
    matrices = 3 if model.activation == "swiglu" else 2
    layer = 4 * model.dim * width + matrices * model.dim * model.ffn_dim
    matmuls = model.n_layers * layer + model.vocab_size * model.dim
    attention = 12 * model.n_layers * width * spec.batch.sequence_length
    assert 6 * matmuls + attention == module.FLOPS_PER_TOKEN


@pytest.mark.slow
def test_shorter_prompts_and_larger_batches_run(emitted) -> None:
    for base in ("tiny", "gpt3-block"):
        spec = small("precision.compute=fp32", base=base)
        module = emitted(spec)
        model = module.Model()
        load(model, module.PACKED, random_weights(spec, module))
        tokens, _ = batch(spec)
        whole = model.logits(tokens)
        for length in (1, 7):  # causal: what comes after changes nothing
            assert relative_error(model.logits(tokens[:, :length]), whole[:, :length]) < 1e-5
        assert model.logits(tokens.repeat(3, 1)).shape == (6, 24, 331)


# -- what a person reads and edits -----------------------------------------------------------------

EDITS = {
    "DIM": "model.dim=64",
    "N_HEADS": "model.n_heads=8",
    "N_KV_HEADS": "model.n_kv_heads=3",
    "HEAD_DIM": "model.head_dim=16",
    "FFN_DIM": "model.ffn_dim=56",
    "VOCAB_SIZE": "model.vocab_size=400",
    "MAX_POSITIONS": "batch.sequence_length=32",
    "NORM_EPS": "model.norm_eps=1e-2",
    "N_LAYERS": "model.n_layers=3",
}


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tiny", "gpt3-block"])
@pytest.mark.parametrize("name", EDITS)
def test_a_size_is_written_once(base: str, name: str) -> None:
    """Another value of a named constant makes the model that a spec with that value makes."""
    apart = ("model.n_kv_heads=2",) if name in ("N_HEADS", "N_KV_HEADS") else ()
    given, wanted = small(*apart, base=base), small(*apart, EDITS[name], base=base)
    value = EDITS[name].partition("=")[2]
    ours, theirs = files(given), files(wanted)
    edited = re.sub(rf"(?m)^{name} = \S+", f"{name} = {float(value):g}", ours["model.py"])
    assert edited != ours["model.py"]
    with import_emitted(theirs) as module:
        weights = random_weights(wanted, module)
        expected = run(module, wanted, weights)
    with import_emitted({**ours, "model.py": edited}) as module:
        loss, found = run(module, wanted, weights)
    assert torch.equal(loss, expected[0])
    assert found.keys() == expected[1].keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in expected[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tiny", "gpt3-block", "post-norm"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_headings_stand_over_the_halves_of_a_block(base: str, ranks: int) -> None:
    text = files(small(f"parallel.tensor={ranks}", base=base))["model.py"]
    forward = text[text.index("def block_forward") : text.index("def block_backward")]
    backward = text[text.index("def block_backward") : text.index("class BlockFunction")]
    assert re.findall("    # (.*)\n", forward) == ["attention", "feed-forward"]
    assert re.findall("    # (.*)\n", backward)[-2:] == ["feed-forward", "attention"]
    for half in (forward, backward):
        headed = re.split("    # (.*)\n", half)
        sections = dict(zip(headed[1::2], headed[2::2], strict=True))
        assert "merged = attn_context.flatten(-2)" in sections["attention"]


@pytest.mark.parametrize("spec", ["65b", "gpt3-block", "llama2-70b"])
def test_every_node_has_its_lines_and_every_line_names_its_node(spec: str) -> None:
    program = compile_spec(load_spec(spec))
    source = render_model(program)
    found, text = nodes_by_line(program, source, Sizes.from_program(program)), source.splitlines()
    names = dict.fromkeys(("embed", *program.layers, "head", "evaluate", "logits"))
    for region in (program.regions[name] for name in names if name in program.regions):
        for module in filter(None, (region.forward, region.backward)):
            for node in ops_in(module.graph):
                lines = [text[number - 1] for number, one in found.items() if one is node]
                assert lines, f"{region.name}: {node}"
                assert all(value.name in "".join(lines) for value in values_of(node))


@pytest.mark.parametrize("length", range(60, 110))
def test_a_line_is_the_same_code_however_it_is_split(length: int) -> None:
    saved = f"({'q' * (length // 2)}, {'k' * (length - length // 2)})"
    call = f"f({'x' * (length // 2)}, {'y' * (length - length // 2)})"
    for right in (f"out, {saved}", f"out, {call}", call):
        lines = list(wrap_statement("return ", right))
        assert ast.dump(ast.parse("\n".join(["def f():", *lines]))) == ast.dump(
            ast.parse(f"def f():\n    return {right}")
        )
        assert length > 85 or max(map(len, lines)) <= WIDTH
